"""The tiny networks of the golden vectors."""

from scav_jax.models.beats import BeatsConfig
from scav_jax.models.clip_resnet import ResNetConfig
from scav_jax.models.clip_vit import VitConfig

VIT = VitConfig(width=32, num_layers=2, num_heads=4, patch=8, projection=16, image=32)
RESNET = ResNetConfig(blocks=(1, 2, 1, 1), width=4, projection=12, image=64)
BEATS = BeatsConfig(
    embed_dim=16,
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    conv_pos=24,
    conv_pos_groups=4,
    num_buckets=32,
    max_distance=60,
)
