"""One Transformer block for one clip: self-attention with relative positions, then a feed-forward network.

A block sees (length, width), never the batch: encoder.py maps it over clips, which makes of every product one batched
GEMM and of every dropout mask a function of the clip's own key.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from scav_jax.models.positions import rotary_angles, rotate, time_buckets
from scav_jax.shapes import Sequence

gelu = partial(jax.nn.gelu, approximate=False)  # PyTorch's; JAX's own default is the tanh approximation
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"gelu": gelu, "relu": jax.nn.relu}
NORMS = ("pre", "post")
TABLE_STDDEV = 0.02  # of the initial position tables; small, so that training starts near position-free attention


def layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with PyTorch's epsilon; Flax's own default is 1e-6."""
    return nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)


class Attention(nnx.Module):
    """Multi-head self-attention; each layer has position parameters of its own (our choice; T5 shares one table)."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.head_width = config.width // config.num_heads
        self.positions = config.positions
        self.rate_hz, self.max_distance_s = config.rate_hz, config.max_distance_s
        self.query_key_value = nnx.Linear(config.width, 3 * config.width, rngs=rngs)
        self.output = nnx.Linear(config.width, config.width, rngs=rngs)
        table_width = {"bias": config.num_heads, "shaw": self.head_width}.get(config.positions)
        if table_width is not None:
            draw = nnx.initializers.normal(TABLE_STDDEV)
            self.position_table = nnx.Param(draw(rngs.params(), (config.position_buckets, table_width), jnp.float32))

    def __call__(self, x: Sequence, mask: Bool[Array, " length"] | None) -> Sequence:
        length, width = x.shape
        projected = self.query_key_value(x).reshape(length, 3, self.num_heads, self.head_width)
        query, key, value = jnp.unstack(projected, axis=1)
        if self.positions == "rotary":
            angles = rotary_angles(length, self.rate_hz, self.head_width, self.max_distance_s)
            query, key = rotate(query, angles), rotate(key, angles)
        scores = jnp.einsum("qhd,khd->hqk", query, key)
        if self.positions == "shaw":
            scores += jnp.einsum("qhd,qkd->hqk", query, self._position_rows(length))
        scores *= self.head_width**-0.5
        if self.positions == "bias":
            scores += jnp.moveaxis(self._position_rows(length), -1, 0)
        if mask is not None:
            scores = jnp.where(mask[None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=-1).astype(x.dtype)
        return self.output(jnp.einsum("hqk,khd->qhd", weights, value).reshape(length, width))

    def _position_rows(self, length: int) -> Float[Array, "length length columns"]:
        table = self.position_table[...]
        return table[time_buckets(length, self.rate_hz, len(table), self.max_distance_s)]


class FeedForward(nnx.Module):
    """Two linear maps with the activation between them."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.activation]
        self.inner = nnx.Linear(config.width, config.ffn_width, rngs=rngs)
        self.outer = nnx.Linear(config.ffn_width, config.width, rngs=rngs)

    def __call__(self, x: Sequence) -> Sequence:
        return self.outer(self.activation(self.inner(x)))


class Block(nnx.Module):
    """x + attention, then + feed-forward; LayerNorm before each ("pre") or after each sum ("post")."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.pre_norm = config.norm == "pre"
        self.attention_norm = layer_norm(config.width, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.ffn_norm = layer_norm(config.width, rngs)
        self.ffn = FeedForward(config, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(self, x: Sequence, mask: Bool[Array, " length"] | None, key: PRNGKeyArray | None) -> Sequence:
        """key None: no dropout. Otherwise the outputs of attention and feed-forward are dropped before their sums."""
        attention_key, ffn_key = (None, None) if key is None else jax.random.split(key)
        if self.pre_norm:
            x = x + self._drop(self.attention(self.attention_norm(x), mask), attention_key)
            return x + self._drop(self.ffn(self.ffn_norm(x)), ffn_key)
        x = self.attention_norm(x + self._drop(self.attention(x, mask), attention_key))
        return self.ffn_norm(x + self._drop(self.ffn(x), ffn_key))

    def _drop(self, x: Sequence, key: PRNGKeyArray | None) -> Sequence:
        return self.dropout(x, deterministic=key is None, rngs=key)
