"""CLIP's ResNet-50 (Radford et al., arXiv 2103.00020): a stem of three convolutions, average pooling wherever a stride
would be, attention in place of the last pooling. Batch normalisation is folded into the convolutions before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from scav_jax.models import frozen
from scav_jax.models.weights import Weights, WeightsError

OUTPUTS = ("map", "attnpool")
Image = Float[Array, "n _H _W _C"]  # changes from map to map


@dataclass(frozen=True)
class ResNetConfig:
    """`blocks` of each of the four stages; the last map has 32 * width channels."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    projection: int = 1024
    image: int = 224


class ModifiedResNet(nnx.Module):
    """(n, 224, 224, 3) normalised images -> (n, width of the output).

    map: the mean of the last stage's 7 x 7 x 2048 map. attnpool: CLIP's own pooling of it, 1024 wide, shared with text.
    """

    def __init__(self, config: ResNetConfig, output: str, *, rngs: nnx.Rngs):
        half, width = config.width // 2, config.width
        self.conv1 = _conv(3, half, rngs, stride=2)
        self.conv2 = _conv(half, half, rngs)
        self.conv3 = _conv(half, width, rngs)
        channels = width
        for stage, count in enumerate(config.blocks):
            inner = width * 2**stage
            blocks = []
            for index in range(count):
                blocks.append(Bottleneck(channels, inner, stage > 0 and index == 0, rngs=rngs))
                channels = 4 * inner
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        self.stages = [f"layer{stage + 1}" for stage in range(len(config.blocks))]
        self.attnpool = AttentionPool(config, channels, rngs=rngs) if output == "attnpool" else None

    def __call__(self, images: Image) -> Float[Array, "n columns"]:
        x = images
        for conv in (self.conv1, self.conv2, self.conv3):
            x = jax.nn.relu(conv(x))
        x = halved(x)
        for stage in self.stages:
            for block in getattr(self, stage):
                x = block(x)
        return x.mean(axis=(1, 2)) if self.attnpool is None else self.attnpool(x)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut."""

    def __init__(self, channels: int, inner: int, halve: bool, *, rngs: nnx.Rngs):
        self.halve = halve
        self.conv1 = Pointwise(channels, inner, rngs=rngs)
        self.conv2 = _conv(inner, inner, rngs)
        self.conv3 = Pointwise(inner, 4 * inner, rngs=rngs)
        self.downsample = Pointwise(channels, 4 * inner, rngs=rngs) if channels != 4 * inner or halve else None

    def __call__(self, x: Image) -> Image:
        y = jax.nn.relu(self.conv2(jax.nn.relu(self.conv1(x))))
        if self.halve:
            x, y = halved(x), halved(y)
        return jax.nn.relu(self.conv3(y) + (x if self.downsample is None else self.downsample(x)))


class Pointwise(nnx.Module):
    """A 1x1 convolution as a product of two matrices, which XLA for CPUs does faster."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        draw = nnx.initializers.he_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (1, 1, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Image) -> Image:
        y = x.reshape(-1, x.shape[-1]) @ self.kernel[...][0, 0] + self.bias[...][None]
        return y.reshape(*x.shape[:-1], -1)


class AttentionPool(nnx.Module):
    """Attention of the map's mean over the map and itself."""

    def __init__(self, config: ResNetConfig, channels: int, *, rngs: nnx.Rngs):
        self.num_heads = channels // 64
        positions = (config.image // 32) ** 2 + 1
        draw = nnx.initializers.normal(channels**-0.5)
        self.positional_embedding = nnx.Param(draw(rngs.params(), (positions, channels), jnp.float32))
        self.q_proj, self.k_proj, self.v_proj = (nnx.Linear(channels, channels, rngs=rngs) for _ in range(3))
        self.c_proj = nnx.Linear(channels, config.projection, rngs=rngs)

    def __call__(self, x: Image) -> Float[Array, "n columns"]:
        x = x.reshape(len(x), -1, x.shape[-1])
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1) + self.positional_embedding[...][None]
        query, key, value = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        return self.c_proj(frozen.attend(*(frozen.heads(part, self.num_heads) for part in (query, key, value)))[:, 0])


def halved(x: Image) -> Image:
    """The mean of every 2 x 2 square."""
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def vision_part(weights: Weights, config: ResNetConfig, output: str) -> Weights:
    """OpenAI's or open_clip's file under the names of the modules above, with batch normalisation folded in.

    WeightsError: names every array of a convolution or its normalisation that is missing.
    """
    if any(name.startswith("visual.") for name in weights.arrays):
        weights = weights.under("visual.")
    weights = weights.without(r".*num_batches_tracked", *([r"attnpool\..*"] if output == "map" else []))
    arrays, missing = dict(weights.arrays), []
    for conv, norm in _normalised(config):
        names = [f"{conv}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
        if absent := [name for name in names if name not in arrays]:
            missing += absent
            continue
        kernel, gain, bias, mean, variance = (arrays.pop(name).astype(np.float64) for name in names)
        scale = gain / np.sqrt(variance + 1e-5)
        name = conv.replace("downsample.0", "downsample")
        arrays |= {f"{name}.weight": kernel * scale[:, None, None, None], f"{name}.bias": bias - mean * scale}
    if missing:
        raise WeightsError(f"{weights.path}: {len(missing)} arrays are missing: {', '.join(missing[:20])}")
    return Weights(weights.path, weights.sha256, arrays)


def _normalised(config: ResNetConfig) -> Iterator[tuple[str, str]]:
    """The published names of every convolution and of the normalisation behind it."""
    yield from ((f"conv{index}", f"bn{index}") for index in (1, 2, 3))
    for stage, count in enumerate(config.blocks, 1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            yield from ((f"{prefix}.conv{index}", f"{prefix}.bn{index}") for index in (1, 2, 3))
            if block == 0:
                yield f"{prefix}.downsample.0", f"{prefix}.downsample.1"


def _conv(inputs: int, outputs: int, rngs: nnx.Rngs, *, stride: int = 1) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (3, 3), strides=stride, padding=1, rngs=rngs)
