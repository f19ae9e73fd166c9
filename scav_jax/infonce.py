"""The two softmaxes of the contrastive loss, from blocks of the distance matrix that are seen one after another.

Two passes over the blocks give a few numbers a row and a column; with these every block has its part of the gradient by
itself. So nobody needs more of the matrix at a time than one block: losses.py says where blocks come from.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scav_jax import parallel

# Under the square root of the variance (of the z-score): rows of equal distances become zeros.
_VARIANCE_FLOOR = 1e-6
_NOWHERE = jnp.iinfo(jnp.int32).max


class Block(NamedTuple):
    """A part of this device's rows: where it begins in them, in the global rows, and in the columns."""

    distances: Float[Array, "R C"]
    own_row: Int[Array, ""] | int
    row: Int[Array, ""] | int
    column: Int[Array, ""] | int


Visit = Callable[[Any, Block], Any]
Fold = Callable[[Visit, Any], Any]  # (visit, carry) -> carry, after visit(carry, block) of every block


class Moments(NamedTuple):
    """Of every row, or of every column, what the first pass finds."""

    entries: Array  # how many
    mean: Array
    sq_deviations: Array  # sum of squares around the mean
    least: Array
    least_at: Array
    most: Array
    most_at: Array
    positive: Array  # the entry on the diagonal
    hardest: Array  # the least of the others


class Softmax(NamedTuple):
    """Of every row, or of every column: z = (D - shift) / scale, p = softmax(-z / temperature)."""

    moments: Moments
    shift: Array
    scale: Array
    log_total: Array  # log sum exp(-z / temperature)
    expected: Array  # sum p z
    positive: Array  # z on the diagonal


def softmaxes(
    fold: Fold, like: Array, rows: int, temperature: Array, normalization: str, axis_name: str | None
) -> tuple[Softmax, Softmax]:
    """Of this device's `rows` rows, and of all columns. `like` tells the type, and over which mesh axes it varies."""
    columns = rows * parallel.size(axis_name)
    found = fold(_observe, (_no_moments(like, rows), _no_moments(like, columns)))
    moments = found[0], _moments_of_all_devices(found[1], axis_name)
    # Every column's positive lies in one device's rows, every row's in its own.
    scales = [shift_and_scale(m, normalization) for m in moments]
    least = [normalized(m.least, *s) for m, s in zip(moments, scales, strict=True)]

    def add_up(carry, block):
        return tuple(
            jax.tree.map(
                lambda total, part, d=dimension: _update(total, _part(total, block, d) + part, block, d),
                totals,
                _weights(block, dimension, temperature, *scale, start),
            )
            for totals, dimension, scale, start in zip(carry, (1, 0), scales, least, strict=True)
        )

    nothing = tuple((_zeros(like, len(m.mean)),) * 2 for m in moments)
    row_totals, column_totals = fold(add_up, nothing)
    totals = row_totals, parallel.total(column_totals, axis_name)
    softmax_of_rows, softmax_of_columns = (
        Softmax(m, *s, jnp.log(total) - start / temperature, weighted / total, normalized(m.positive, *s))
        for m, s, start, (total, weighted) in zip(moments, scales, least, totals, strict=True)
    )
    return softmax_of_rows, softmax_of_columns


def gradient(block: Block, both: tuple[Softmax, Softmax], temperature: Array, normalization: str, c: Array) -> Array:
    """c times the gradient of sum(positive / temperature + log_total) of rows and columns in the block's distances.

    Of z: g = (1 on the diagonal - p) c, whose rows sum to 0; then through the statistics. With G = sum g z of a row,
    c (positive - expected): z-score and mean give (g - z G / N) / scale and (g - G / N) / scale, and minmax G / scale
    more at the minimum and less at the maximum (of several, the first).
    """
    on_diagonal, result = _on_diagonal(block), jnp.zeros_like(block.distances)
    for softmax, dimension in zip(both, (1, 0), strict=True):
        s = jax.tree.map(lambda leaf, d=dimension: jnp.expand_dims(_part(leaf, block, d), d), softmax)
        z = normalized(block.distances, s.shift, s.scale)
        g = (on_diagonal - jnp.exp(-z / temperature - s.log_total)) * c
        whole = c * (s.positive - s.expected)
        if normalization == "zscore":
            g -= z * whole / s.moments.entries
        elif normalization == "mean":
            g -= whole / s.moments.entries
        elif normalization == "minmax":
            at = _places(block, dimension)
            g += whole * ((at == s.moments.least_at).astype(g.dtype) - (at == s.moments.most_at))
        result += _divide(g, s.scale)
    return result


def shift_and_scale(moments: Moments, normalization: str) -> tuple[Array, Array]:
    """What `normalized` takes."""
    if normalization == "none":
        return jnp.zeros_like(moments.mean), jnp.ones_like(moments.mean)
    if normalization == "minmax":
        return moments.least, moments.most - moments.least
    if normalization == "mean":
        return jnp.zeros_like(moments.mean), moments.mean
    return moments.mean, jnp.sqrt(moments.sq_deviations / moments.entries + _VARIANCE_FLOOR)


def normalized(distances: Array, shift: Array, scale: Array) -> Array:
    """(distances - shift) / scale; where the scale is 0, 0."""
    return _divide(distances - shift, scale)


def moments_of(block: Block, dimension: int) -> Moments:
    """Of the block's rows (dimension 1 is reduced), or of its columns (0)."""
    distances, on_diagonal = block.distances, _on_diagonal(block)
    places = jnp.broadcast_to(_places(block, dimension), distances.shape)
    mean = jnp.mean(distances, dimension, keepdims=True)
    least, most = (f(distances, dimension, keepdims=True) for f in (jnp.min, jnp.max))
    return Moments(
        jnp.full_like(jnp.squeeze(mean, dimension), distances.shape[dimension]),
        jnp.squeeze(mean, dimension),
        jnp.sum(jnp.square(distances - mean), dimension),
        jnp.squeeze(least, dimension),
        jnp.min(jnp.where(distances == least, places, _NOWHERE), dimension),
        jnp.squeeze(most, dimension),
        jnp.min(jnp.where(distances == most, places, _NOWHERE), dimension),
        jnp.sum(jnp.where(on_diagonal, distances, 0), dimension),
        jnp.min(jnp.where(on_diagonal, jnp.inf, distances), dimension),
    )


def _observe(carry, block):
    return tuple(
        jax.tree.map(
            lambda whole, part, d=dimension: _update(whole, part, block, d),
            moments,
            _together(jax.tree.map(lambda m, d=dimension: _part(m, block, d), moments), moments_of(block, dimension)),
        )
        for moments, dimension in zip(carry, (1, 0), strict=True)
    )


def _together(a: Moments, b: Moments) -> Moments:
    """Moments of two parts of the same rows (Chan, Golub and LeVeque 1979)."""
    entries = a.entries + b.entries
    apart = b.mean - a.mean
    return Moments(
        entries,
        a.mean + apart * b.entries / entries,
        a.sq_deviations + b.sq_deviations + jnp.square(apart) * a.entries * b.entries / entries,
        jnp.minimum(a.least, b.least),
        jnp.where(b.least < a.least, b.least_at, a.least_at),
        jnp.maximum(a.most, b.most),
        jnp.where(b.most > a.most, b.most_at, a.most_at),
        a.positive + b.positive,
        jnp.minimum(a.hardest, b.hardest),
    )


def _moments_of_all_devices(own: Moments, axis_name: str | None) -> Moments:
    if axis_name is None:
        return own
    psum, pmin, pmax = (lambda v, f=f: f(v, axis_name) for f in (jax.lax.psum, jax.lax.pmin, jax.lax.pmax))
    entries, least, most = psum(own.entries), pmin(own.least), pmax(own.most)
    mean = psum(own.mean * own.entries) / entries
    return Moments(
        entries,
        mean,
        psum(own.sq_deviations + own.entries * jnp.square(own.mean - mean)),
        least,
        pmin(jnp.where(own.least == least, own.least_at, _NOWHERE)),
        most,
        pmin(jnp.where(own.most == most, own.most_at, _NOWHERE)),
        psum(own.positive),
        pmin(own.hardest),
    )


def _zeros(like, length):
    return jnp.zeros_like(like, shape=(length,))


def _no_moments(like, length):
    zero = _zeros(like, length)
    nowhere = zero.astype(jnp.int32) + _NOWHERE
    return Moments(zero, zero, zero, zero + jnp.inf, nowhere, zero - jnp.inf, nowhere, zero, zero + jnp.inf)


def _weights(block, dimension, temperature, shift, scale, least):
    """Sums of exp((least z - z) / temperature), and of these times z."""
    shift, scale, least = (jnp.expand_dims(_part(v, block, dimension), dimension) for v in (shift, scale, least))
    z = normalized(block.distances, shift, scale)
    weights = jnp.exp((least - z) / temperature)
    return jnp.sum(weights, dimension), jnp.sum(weights * z, dimension)


def _start(block, dimension):
    return block.own_row if dimension == 1 else block.column


def _part(values, block, dimension):
    """Of values of all rows (dimension 1) or columns (0), those of the block's."""
    return jax.lax.dynamic_slice_in_dim(values, _start(block, dimension), block.distances.shape[1 - dimension])


def _update(values, part, block, dimension):
    return jax.lax.dynamic_update_slice_in_dim(values, part, _start(block, dimension), 0)


def _places(block, dimension):
    """Along the reduced dimension, the global row or column, as (R, 1) or (1, C)."""
    start = (block.row, block.column)[dimension]
    return jnp.expand_dims(start + jnp.arange(block.distances.shape[dimension]), 1 - dimension).astype(jnp.int32)


def _on_diagonal(block):
    return _places(block, 0) == _places(block, 1)


def _divide(values, scale):
    """values / scale, and 0 for 0 / 0, whose gradient would be NaN."""
    return jnp.where(scale == 0, 0, values / jnp.where(scale == 0, 1, scale))
