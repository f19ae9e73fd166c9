"""BEATs (Chen et al., arXiv 2212.09058): `load` or `init` parameters, then `apply` them to 16 kHz waveforms.

Filter bank -> 16 x 16 patches, time-major -> LayerNorm -> linear map -> + GELU of a grouped convolution over positions
-> LayerNorm -> 12 post-norm layers with deep-norm residuals and gated relative positions -> mean over the 8 bands.
10 s give (62, 768). Modules are named as in the published files.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from scav_jax.models import frozen
from scav_jax.models.blocks import gelu, layer_norm
from scav_jax.models.filter_bank import BANDS, HOP, WINDOW, filter_bank, num_frames, to_16_bit
from scav_jax.models.filter_bank import RATE_HZ as RATE_HZ
from scav_jax.models.weights import Weights, WeightsError, fill, read_weights

PATCH = 16
ROWS = BANDS // PATCH  # tokens a step
MIN_SAMPLES = WINDOW + (PATCH - 1) * HOP  # of one step
_MEAN, _STDDEV = 15.41663, 6.55582  # of the filter bank over AudioSet


@dataclass(frozen=True)
class BeatsConfig:
    """What of a checkpoint's cfg sizes the network; the defaults are those of all published files."""

    embed_dim: int = 512
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800


# What all published files have, and this network is made for.
_FIXED = {
    "input_patch_size": PATCH,
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}


class Beats(nnx.Module):
    """Filter banks (n, frames, 128), normalised, and their numbers of valid steps -> (n, steps, width)."""

    def __init__(self, config: BeatsConfig, *, rngs: nnx.Rngs):
        self.patch_embedding = frozen.Patches(PATCH, 1, config.embed_dim, rngs=rngs)
        self.layer_norm = layer_norm(config.embed_dim, rngs)
        narrow = config.embed_dim != config.encoder_embed_dim
        self.post_extract_proj = nnx.Linear(config.embed_dim, config.encoder_embed_dim, rngs=rngs) if narrow else None
        self.encoder = Encoder(config, rngs=rngs)

    def __call__(self, bank: Float[Array, "n frames 128"], num_steps: Int[Array, " n"]) -> frozen.Tokens:
        patches = self.patch_embedding(bank[..., None])
        n, steps, rows, _ = patches.shape
        x = self.layer_norm(patches.reshape(n, steps * rows, -1))
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        valid = jnp.arange(steps * rows)[None] < rows * num_steps[:, None]
        return self.encoder(x, valid).reshape(n, steps, rows, -1).mean(axis=2)


class Encoder(nnx.Module):
    """All layers share one table of relative positions, each gates it by its own queries."""

    def __init__(self, config: BeatsConfig, *, rngs: nnx.Rngs):
        self.pos_conv = PositionalConvolution(config, rngs=rngs)
        self.layer_norm = layer_norm(config.encoder_embed_dim, rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.encoder_layers)])
        self.relative_attention_bias = nnx.Embed(config.num_buckets, config.encoder_attention_heads, rngs=rngs)
        self.max_distance = config.max_distance

    def __call__(self, x: frozen.Tokens, valid: Any) -> frozen.Tokens:
        x = jnp.where(valid[..., None], x, 0)
        x = self.layer_norm(x + gelu(self.pos_conv(x)))
        table = self.relative_attention_bias.embedding[...].astype(jnp.float32)
        positions = jnp.moveaxis(table[buckets(x.shape[1], len(table), self.max_distance)], -1, 0)[None]
        masked = jnp.where(valid, 0.0, jnp.finfo(jnp.float32).min)[:, None, None]
        for layer in self.layers:
            x = layer(x, positions, masked)
        return x


class PositionalConvolution(nnx.Module):
    """A grouped convolution over time, its kernel (taps, inputs of a group, outputs).

    Under jit with a sharded batch XLA gathers the batch for it; in shard_map it does not.
    """

    def __init__(self, config: BeatsConfig, *, rngs: nnx.Rngs):
        width, self.groups = config.encoder_embed_dim, config.conv_pos_groups
        draw = nnx.initializers.normal(2 * (config.conv_pos * width) ** -0.5)
        shape = (config.conv_pos, width // self.groups, width)
        self.kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: frozen.Tokens) -> frozen.Tokens:
        kernel = self.kernel[...]
        before = len(kernel) // 2
        convolved = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1,),
            padding=[(before, len(kernel) - 1 - before)],
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=self.groups,
        )
        return convolved + self.bias[...][None, None]


class Layer(nnx.Module):
    """x alpha + attention, normalised, then alpha times that + MLP, normalised; alpha = (2 layers) ** 1/4."""

    def __init__(self, config: BeatsConfig, *, rngs: nnx.Rngs):
        width = config.encoder_embed_dim
        self.alpha = (2 * config.encoder_layers) ** 0.25
        self.self_attn = Attention(config, rngs=rngs)
        self.self_attn_layer_norm = layer_norm(width, rngs)
        self.fc1 = nnx.Linear(width, config.encoder_ffn_embed_dim, rngs=rngs)
        self.fc2 = nnx.Linear(config.encoder_ffn_embed_dim, width, rngs=rngs)
        self.final_layer_norm = layer_norm(width, rngs)

    def __call__(self, x: frozen.Tokens, positions: Any, masked: Any) -> frozen.Tokens:
        x = self.self_attn_layer_norm(self.alpha * x + self.self_attn(x, positions, masked))
        return self.final_layer_norm(self.alpha * x + self.fc2(gelu(self.fc1(x))))


class Attention(nnx.Module):
    """Self-attention whose relative positions are scaled by a gate of the query before its own scaling."""

    def __init__(self, config: BeatsConfig, *, rngs: nnx.Rngs):
        width, self.num_heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        self.grep_linear = nnx.Linear(width // self.num_heads, 8, rngs=rngs)
        self.grep_a = nnx.Param(jnp.ones((1, self.num_heads, 1, 1)))

    def __call__(self, x: frozen.Tokens, positions: Any, masked: Any) -> frozen.Tokens:
        query, key, value = (frozen.heads(part(x), self.num_heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        halves = self.grep_linear(query).astype(jnp.float32)
        halves = halves.reshape(*halves.shape[:-1], 2, 4).sum(axis=-1)
        first, second = jnp.unstack(jnp.moveaxis(jax.nn.sigmoid(halves), 2, 1), axis=-1)  # (n, heads, length)
        gain = self.grep_a[...].astype(jnp.float32)[..., 0]
        gate = first * (second * gain - 1) + 2
        return self.out_proj(frozen.attend(query, key, value, gate[..., None] * positions + masked))


def buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """(length, length) bucket of key j seen from query i: T5's scheme (arXiv 1910.10683), half of them for later keys,
    of each half one half exact and the rest growing geometrically up to `max_distance` tokens."""
    half = num_buckets // 2
    exact = half // 2
    difference = np.arange(length)[None] - np.arange(length)[:, None]
    distance = np.abs(difference)
    # In float32, as PyTorch computes it: near a bucket's edge the last digit decides.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(max_distance / exact)
    )
    far = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(difference > 0, half, 0) + np.where(distance < exact, distance, far)


def init(seed: int, config: BeatsConfig) -> frozen.Parameters:
    """Random parameters, to try things out without a pretrained file."""
    return frozen.draw(frozen.shapes_of(_builder(config)), seed)


def load(path: str | Path) -> tuple[frozen.Parameters, BeatsConfig, Weights]:
    """Parameters of a published file {'cfg', 'model'}, its config, and what is known of the file.

    A fine-tuned file's classifier (`predictor.*`) is left out. WeightsError: the file is damaged, holds more than
    tensors, does not fit, or has a cfg of another kind of network, whose fields are named.
    """
    weights = read_weights(path)
    weights.check_model("beats")
    config = read_config(weights)
    return convert(weights, config), config, weights


def read_config(weights: Weights) -> BeatsConfig:
    """The sizes of a checkpoint's cfg; WeightsError names each field that is missing or not of a BEATs network."""
    if weights.config is None:
        raise WeightsError(f"{weights.path}: expected a BEATs checkpoint {{'cfg', 'model'}}, got no 'cfg'")
    sizes = [field.name for field in dataclasses.fields(BeatsConfig)]
    problems = [
        f"{name} = {weights.config.get(name)!r}, expected {value!r}"
        for name, value in _FIXED.items()
        if weights.config.get(name) != value
    ]
    problems += [
        f"{name} = {weights.config.get(name)!r}, expected a whole number above 0"
        for name in sizes
        if not (isinstance(weights.config.get(name), int) and weights.config[name] > 0)
    ]
    if problems:
        raise WeightsError(f"{weights.path}: cfg is not of BEATs: {'; '.join(problems)}")
    return BeatsConfig(**{name: weights.config[name] for name in sizes})


def convert(weights: Weights, config: BeatsConfig) -> frozen.Parameters:
    """A published file's arrays as parameters; WeightsError where they do not fit."""
    arrays = dict(weights.without(r"predictor\..*").arrays)
    _fold_weight_norm(arrays)
    tables = sorted(name for name in arrays if name.endswith("relative_attention_bias.weight"))
    for name in tables[1:]:
        if not np.array_equal(arrays[name], arrays[tables[0]]):
            raise WeightsError(f"{weights.path}: {name}: expected the table that all layers share, got another")
    if tables:
        arrays["encoder.relative_attention_bias.weight"] = arrays[tables[0]]
        arrays = {name: array for name, array in arrays.items() if name not in tables}
    return fill(frozen.shapes_of(_builder(config)), Weights(weights.path, weights.sha256, arrays))


def _fold_weight_norm(arrays: dict[str, np.ndarray]) -> None:
    """weight = g v / |v|, one norm a tap; under the names of PyTorch's older and newer weight norm."""
    prefix = "encoder.pos_conv.0."
    newer = "parametrizations.weight.original"
    for gain, direction in (("weight_g", "weight_v"), (f"{newer}0", f"{newer}1")):
        if prefix + gain in arrays and prefix + direction in arrays:
            g, v = (arrays.pop(prefix + name).astype(np.float64) for name in (gain, direction))
            norm = np.sqrt(np.sum(v**2, axis=(0, 1), keepdims=True))
            arrays["encoder.pos_conv.weight"] = g * v / norm
    if prefix + "bias" in arrays:
        arrays["encoder.pos_conv.bias"] = arrays.pop(prefix + "bias")


def apply(
    parameters: frozen.Parameters,
    config: BeatsConfig,
    waveforms: Float[Array, "n samples"],
    num_samples: Int[Array, " n"],
    precision: str = "float32",
) -> Float[Array, "n steps width"]:
    """Waveforms in [-1, 1] at 16 kHz, of which the first `num_samples` are valid -> one float32 vector every 0.16 s.

    What lies behind a clip's valid samples changes nothing of its first `num_steps(num_samples)` vectors; those behind
    mean nothing. precision: of parameters and products after the filter bank; softmax and LayerNorm's statistics are
    float32 always.
    """
    bank = filter_bank(to_16_bit(waveforms))
    return encode_bank(parameters, config, bank, num_steps(num_samples), precision)


def encode_bank(
    parameters: frozen.Parameters,
    config: BeatsConfig,
    bank: Float[Array, "n frames 128"],
    steps: Int[Array, " n"],
    precision: str = "float32",
) -> Float[Array, "n steps width"]:
    """`apply` from the filter bank on, `steps` of each clip being valid."""
    normalised = ((bank - _MEAN) / (2 * _STDDEV)).astype(precision)
    return frozen.with_parameters(_builder(config), parameters, precision)(normalised, steps).astype(jnp.float32)


def num_steps(num_samples: Any) -> Any:
    """Vectors that so many samples (an int, or an array of them) give."""
    return num_frames(num_samples) // PATCH


def _builder(config: BeatsConfig) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: Beats(config, rngs=rngs)
