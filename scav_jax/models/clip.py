"""CLIP's vision towers: `load` or `init` parameters, then `apply` them to pictures. Pure functions, differentiable."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from scav_jax.models import clip_resnet, clip_vit, frozen
from scav_jax.models.clip_resnet import ModifiedResNet, ResNetConfig
from scav_jax.models.clip_vit import VisionTransformer, VitConfig
from scav_jax.models.weights import Weights, fill, read_weights

MODELS: dict[str, VitConfig | ResNetConfig] = {
    "clip-vit-b32": VitConfig(width=768, num_layers=12, num_heads=12, patch=32, projection=512),
    "clip-vit-b16": VitConfig(width=768, num_layers=12, num_heads=12, patch=16, projection=512),
    "clip-vit-l14": VitConfig(width=1024, num_layers=24, num_heads=16, patch=14, projection=768),
    "clip-rn50": ResNetConfig(),
}
SIZE = 224  # pixels along a side of the pictures
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue in CLIP's training pictures
STDDEV = (0.26862954, 0.26130258, 0.27577711)


def outputs(model: str) -> tuple[str, ...]:
    """What a model offers, its default first. ValueError: no such model."""
    if model not in MODELS:
        raise ValueError(f"model: expected one of {', '.join(MODELS)}, got {model!r}")
    return clip_vit.OUTPUTS if isinstance(MODELS[model], VitConfig) else clip_resnet.OUTPUTS


def width(model: str, output: str) -> int:
    """Of the vectors. ValueError: no such model or output."""
    config = _config(model, output)
    if output in ("projection", "attnpool"):
        return config.projection
    return config.width if isinstance(config, VitConfig) else 32 * config.width


def init(seed: int, model: str, output: str) -> frozen.Parameters:
    """Random parameters, to try things out without a pretrained file."""
    return frozen.draw(frozen.shapes_of(_builder(_config(model, output), output)), seed)


def load(path: str | Path, model: str, output: str) -> tuple[frozen.Parameters, Weights]:
    """Parameters of a published file, and what is known of the file.

    WeightsError: the file is damaged, holds more than tensors, is known to be another model, or does not fit.
    """
    config = _config(model, output)
    weights = read_weights(path)
    weights.check_model(model)
    return convert(weights, config, output), weights


def convert(weights: Weights, config: VitConfig | ResNetConfig, output: str) -> frozen.Parameters:
    """A published file's arrays as parameters of a network of this size; WeightsError where they do not fit."""
    if isinstance(config, VitConfig):
        part = clip_vit.vision_part(weights, output)
    else:
        part = clip_resnet.vision_part(weights, config, output)
    return fill(frozen.shapes_of(_builder(config, output)), part)


def apply(
    parameters: frozen.Parameters,
    config: VitConfig | ResNetConfig,
    output: str,
    pictures: UInt8[Array, "n size size 3"],
    precision: str = "float32",
) -> Float[Array, "n columns"]:
    """Pictures as `resize` or PIL made them, RGB -> one float32 vector each.

    precision: of parameters and products; softmax and LayerNorm's statistics are float32 always.
    """
    mean, stddev = (jnp.array(numbers, jnp.float32)[None, None, None] for numbers in (MEAN, STDDEV))
    images = (pictures.astype(jnp.float32) / 255 - mean) / stddev
    network = frozen.with_parameters(_builder(config, output), parameters, precision)
    return network(images.astype(precision)).astype(jnp.float32)


@jax.jit
def resize(frames: UInt8[Array, "n height width 3"]) -> UInt8[Array, "n size size 3"]:
    """Frames of any size -> pictures: shortest edge to 224 by an anti-aliased bicubic filter, then the centre square.

    `jax.image`'s filter, rounded after either direction as PIL does, with which CLIP was trained. PIL's weights are
    integers, hence the two (features/pictures.py) are up to 2 of 255 apart, few pixels at all.
    """
    height, wide = resized(frames.shape[1], frames.shape[2])
    scaled = frames.astype(jnp.float32)
    for shape in ((len(frames), frames.shape[1], wide, 3), (len(frames), height, wide, 3)):
        scaled = jax.image.resize(scaled, shape, "cubic", antialias=True, precision="highest")
        scaled = jnp.clip(jnp.round(scaled), 0, 255)
    top, left = (height - SIZE) // 2, (wide - SIZE) // 2
    return scaled[:, top : top + SIZE, left : left + SIZE].astype(jnp.uint8)


def resized(height: int, wide: int) -> tuple[int, int]:
    """The size of a picture whose shortest edge became 224, as transformers rounds it."""
    short, long = min(height, wide), max(height, wide)
    scaled = int(SIZE * long / short)
    return (SIZE, scaled) if height <= wide else (scaled, SIZE)


def _config(model: str, output: str) -> VitConfig | ResNetConfig:
    if output not in outputs(model):
        raise ValueError(f"output: expected one of {', '.join(outputs(model))} of {model}, got {output!r}")
    return MODELS[model]


def _builder(config: VitConfig | ResNetConfig, output: str) -> Callable[[nnx.Rngs], nnx.Module]:
    if isinstance(config, VitConfig):
        return lambda rngs: VisionTransformer(config, output, rngs=rngs)
    return lambda rngs: ModifiedResNet(config, output, rngs=rngs)
