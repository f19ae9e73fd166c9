"""What the frozen networks share: patches, attention over whole sequences, and parameters from a module's shapes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Parameters = dict[str, Any]
Tokens = Float[Array, "n tokens width"]
PRECISIONS = ("float32", "bfloat16")


class Patches(nnx.Module):
    """A convolution whose stride is its window, as one product: (n, H, W, C) -> (n, H / p, W / p, width)."""

    def __init__(self, patch: int, channels: int, width: int, *, rngs: nnx.Rngs):
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (patch, patch, channels, width), jnp.float32))

    def __call__(self, x: Float[Array, "n H W C"]) -> Float[Array, "n rows columns width"]:
        kernel = self.kernel[...]
        patch, _, channels, width = kernel.shape
        n, height, wide, _ = x.shape
        rows, columns = height // patch, wide // patch
        x = x[:, : rows * patch, : columns * patch].reshape(n, rows, patch, columns, patch, channels)
        return x.swapaxes(2, 3).reshape(n, rows, columns, patch * patch * channels) @ kernel.reshape(-1, width)


def heads(x: Tokens, num_heads: int) -> Float[Array, "n tokens heads columns"]:
    """(n, tokens, heads x columns) -> (n, tokens, heads, columns)."""
    return x.reshape(*x.shape[:2], num_heads, -1)


def attend(
    query: Float[Array, "n q h c"],
    key: Float[Array, "n k h c"],
    value: Float[Array, "n k h c"],
    bias: Float[Array, "n h q k"] | None = None,
) -> Float[Array, "n q width"]:
    """Softmax attention, its weights float32 at least; `bias` is added to the scaled scores.

    Heads first and divided last: on a CPU four times as fast as the plain order of the axes.
    """
    query, key, value = (part.swapaxes(1, 2) for part in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.swapaxes(2, 3)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = scores if bias is None else scores + bias
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights.astype(value.dtype) @ value) / weights.sum(axis=-1, keepdims=True)
    return mixed.astype(value.dtype).swapaxes(1, 2).reshape(len(value), query.shape[2], -1)


def shapes_of(build: Callable[[nnx.Rngs], nnx.Module]) -> Parameters:
    """The parameters of the module that `build` makes, as shapes."""
    return nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[1])


def draw(shapes: Parameters, seed: int) -> Parameters:
    """Random parameters of these shapes, to try things out where a pretrained file is not at hand (our choice)."""
    rng = np.random.default_rng(seed)

    def number(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name in ("bias", "scale", "grep_a"):
            return np.full(leaf.shape, float(name != "bias"), np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if name == "kernel" else 1 / 0.02**2
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(fan_in**-0.5)

    return jax.tree_util.tree_map_with_path(number, shapes)


def with_parameters(build: Callable[[nnx.Rngs], nnx.Module], parameters: Parameters, precision: str) -> Any:
    """The module with these parameters, cast to the precision of its products."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    graph = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[0]
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(precision), parameters))
