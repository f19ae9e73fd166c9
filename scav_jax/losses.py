"""InfoNCE over any distance matrix: normalise rows and columns, divide by a temperature, contrast with the diagonal.

`of_matrix` is given all distances, `of_sequences` computes them block by block and never has more than one.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scav_jax import distances as sequential
from scav_jax import infonce, parallel
from scav_jax.distances import tiling
from scav_jax.distances.ground import XMasks, XSequences, YMasks, YSequences
from scav_jax.shapes import Distances

NORMALIZATIONS = ("none", "zscore", "mean", "minmax")

# Rounding may push a distance of 0 this far below it, relative to the largest.
_NEGATIVE_SLACK = 1e-5
# Of the matrix, a block that is worked on at a time.
_CPU_BLOCK_BYTES, _ACCELERATOR_BLOCK_BYTES = 2**20, 2**26


class Spread(NamedTuple):
    """Distances of a batch in a few numbers, averaged over rows: what a log shows beside the loss."""

    positive: Float[Array, ""]
    mean: Float[Array, ""]
    hardest: Float[Array, ""]  # the nearest negative
    deviation: Float[Array, ""]  # standard deviation in a row
    least: Float[Array, ""]  # of all
    most: Float[Array, ""]


def contrastive_loss(
    distances: Float[Array, "rows N"],
    temperature: float | int | Float[Array, ""],
    *,
    normalization: str = "zscore",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Mean of the row-wise and the column-wise cross-entropy of -normalised distance / temperature.

    distances: (N, N) over the whole global batch, smaller = closer, positives on the diagonal. Rows are normalised by
    row statistics, columns by column statistics, the positive included; gradients flow through the statistics.
    Differentiable in distances and temperature (a positive number or scalar array), in reverse mode and once: the
    gradient is written out, from the distances and a few numbers a row and a column, and needs no other matrix.

    normalization: "none"; "zscore" (D - mean) / sqrt(population variance + 1e-6); "mean" D / mean; "minmax"
    (D - min) / (max - min), all 0 where max = min; where several are the least or the greatest, the first has the
    gradient. The paper names a row- and column-wise normalisation; which one is open, z-score is our default.

    axis_name: inside jax.shard_map over that mesh axis, where distances are this device's (N / devices, N) rows.

    "mean" of negative distances is meaningless: a ValueError, or under jit, where values are unknown, a loss of NaN.
    `check_normalization` refuses such a pair before any tracing.
    """
    return of_matrix(distances, temperature, normalization, axis_name)[0]


def of_matrix(
    distances: Float[Array, "rows N"],
    temperature: float | int | Float[Array, ""],
    normalization: str,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Spread]:
    """`contrastive_loss`, and the distances' spread, which has no gradient."""
    _check_choice(normalization)
    devices = parallel.size(axis_name)
    if distances.ndim != 2 or distances.shape[0] * devices != distances.shape[1] or not distances.size:
        raise ValueError(
            f"distances: expected a square matrix, positives on its diagonal, got {distances.shape}"
            + (f" on each of {devices} devices" if axis_name else "")
        )
    temperature = _checked_temperature(temperature, distances.dtype)
    return _checked(_of_matrix(distances, temperature, normalization, axis_name), normalization)


def of_sequences(
    name: str,
    x: XSequences,
    y: YSequences,
    x_mask: XMasks | None,
    y_mask: YMasks | None,
    temperature: float | int | Float[Array, ""],
    normalization: str,
    axis_name: str | None = None,
    **options,
) -> tuple[Float[Array, ""], Spread]:
    """`of_matrix` of the distances of all pairs, of which no more than a block is ever in memory.

    Arguments as of `parallel.all_pairs`. Differentiable in x, y and temperature. Rows and columns pass twice for the
    loss and once more for the gradient: three times the distances' forward computation for N^2 / devices numbers less.
    """
    _check_choice(normalization)
    if len(x) != len(y):
        raise ValueError(f"x and y: expected as many clips, got {len(x)} and {len(y)}")
    frozen = tuple(sorted(options.items()))
    temperature = _checked_temperature(temperature, jnp.promote_types(jnp.result_type(x, y), jnp.float32))
    sequences = x, y, x_mask, y_mask
    return _checked(_of_sequences(sequences, temperature, name, normalization, axis_name, frozen), normalization)


def normalize(distances: Distances, normalization: str) -> Distances:
    """Each row of (Q, G) distances by that row's statistics."""
    _check_choice(normalization)
    moments = infonce.moments_of(infonce.Block(distances, 0, 0, 0), 1)
    shift, scale = infonce.shift_and_scale(moments, normalization)
    return infonce.normalized(distances, shift[:, None], scale[:, None])


def check_normalization(normalization: str, name: str, **options) -> None:
    """Raises ValueError if `normalization` cannot take the distance `name` with these options, whatever the batch."""
    _check_choice(normalization)
    if normalization == "mean" and sequential.can_be_negative(name, **options):
        raise ValueError(f'normalization: expected another than "mean", {name} with {options} can be negative')


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _of_matrix(distances, temperature, normalization, axis_name):
    return _of_matrix_forward(distances, temperature, normalization, axis_name)[0]


def _of_matrix_forward(distances, temperature, normalization, axis_name):
    def fold(visit, carry):
        return _over_rows(
            lambda carry, start, count: visit(carry, _rows(distances, start, count, axis_name)), carry, distances
        )

    both = infonce.softmaxes(fold, distances, len(distances), temperature, normalization, axis_name)
    return _loss_and_spread(both, temperature, axis_name), (distances, temperature, both)


def _of_matrix_backward(normalization, axis_name, residuals, cotangents):
    """Writes the gradient over the distances, block by block: beside the matrix there is only a block."""
    distances, temperature, both = residuals
    c = cotangents[0] / (2 * distances.shape[1] * temperature)

    def of_rows(matrix, start, count):
        part = infonce.gradient(_rows(matrix, start, count, axis_name), both, temperature, normalization, c)
        return jax.lax.dynamic_update_slice_in_dim(matrix, part, start, 0)

    gradient = _over_rows(of_rows, distances, distances)
    return gradient, _temperature_gradient(both, temperature, c, axis_name)


_of_matrix.defvjp(_of_matrix_forward, _of_matrix_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _of_sequences(sequences, temperature, name, normalization, axis_name, options):
    return _of_sequences_forward(sequences, temperature, name, normalization, axis_name, options)[0]


def _of_sequences_forward(sequences, temperature, name, normalization, axis_name, options):
    x, y, x_mask, y_mask = sequences

    def fold(visit, carry):
        def turn(carry, visitor, home):
            def of_block(carry, row, rows, column, columns):
                (own, own_mask), (other, other_mask) = _clips((x, x_mask), row, rows), _clips(visitor, column, columns)
                matrix = sequential.pairwise(name, own, other, own_mask, other_mask, **dict(options))
                return visit(carry, _block(matrix, row, column, home, len(y), axis_name))

            return _over_blocks(of_block, carry, len(x), len(y), temperature.dtype), visitor

        return parallel.ring(turn, carry, (y, y_mask), axis_name)[0]

    like = (jnp.zeros_like(x, shape=()) + jnp.zeros_like(y, shape=())).astype(temperature.dtype)
    both = infonce.softmaxes(fold, like, len(x), temperature, normalization, axis_name)
    return _loss_and_spread(both, temperature, axis_name), (sequences, temperature, both)


def _of_sequences_backward(name, normalization, axis_name, options, residuals, cotangents):
    (x, y, x_mask, y_mask), temperature, both = residuals
    c = cotangents[0] / (2 * len(x) * parallel.size(axis_name) * temperature)

    def turn(x_gradient, visitor, home):
        *others, y_gradient = visitor

        def of_block(gradients, row, rows, column, columns):
            (own, own_mask), (other, other_mask) = _clips((x, x_mask), row, rows), _clips(others, column, columns)

            def distances(own, other):
                return sequential.pairwise(name, own, other, own_mask, other_mask, **dict(options))

            # In the result's type: many small gradients are about to be added up.
            matrix, vjp = jax.vjp(distances, own.astype(temperature.dtype), other.astype(temperature.dtype))
            block = _block(matrix, row, column, home, len(y), axis_name)
            parts = vjp(infonce.gradient(block, both, temperature, normalization, c))
            return tuple(
                _add_at(total, part, at) for total, part, at in zip(gradients, parts, (row, column), strict=True)
            )

        gradients = _over_blocks(of_block, (x_gradient, y_gradient), len(x), len(y), temperature.dtype)
        return gradients[0], (*others, gradients[1])

    x_gradient, y_gradient = (jnp.zeros_like(side, dtype=temperature.dtype) for side in (x, y))
    x_gradient, (*_, y_gradient) = parallel.ring(turn, x_gradient, (y, y_mask, y_gradient), axis_name)
    gradients = x_gradient.astype(x.dtype), y_gradient.astype(y.dtype), None, None
    return gradients, _temperature_gradient(both, temperature, c, axis_name)


_of_sequences.defvjp(_of_sequences_forward, _of_sequences_backward)


def _loss_and_spread(both, temperature, axis_name):
    rows, columns = both
    count = len(columns.positive)
    row_terms, column_terms = (jnp.sum(s.positive / temperature + s.log_total) for s in both)
    loss = (parallel.total(row_terms, axis_name) + column_terms) / (2 * count)
    moments = rows.moments
    return loss, Spread(
        positive=parallel.mean(moments.positive, axis_name),
        mean=parallel.mean(moments.mean, axis_name),
        hardest=parallel.mean(moments.hardest, axis_name),
        deviation=parallel.mean(jnp.sqrt(moments.sq_deviations / moments.entries), axis_name),
        least=jnp.min(columns.moments.least),
        most=jnp.max(columns.moments.most),
    )


def _temperature_gradient(both, temperature, c, axis_name):
    rows, columns = (jnp.sum(c * (s.positive - s.expected)) for s in both)
    return -(parallel.total(rows, axis_name) + columns) / temperature


def _rows(distances, start, count, axis_name):
    """A block of whole rows."""
    first = parallel.index(axis_name) * len(distances)
    return infonce.Block(jax.lax.dynamic_slice_in_dim(distances, start, count), start, first + start, 0)


def _block(matrix, row, column, home, columns, axis_name):
    """The block at a row and a column of this device's clips against those of the device `home`."""
    first = parallel.index(axis_name) * columns
    return infonce.Block(matrix, row, first + row, home * columns + column)


def _clips(side, start, count):
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, count), side)


def _add_at(total, part, start):
    return jax.lax.dynamic_update_slice_in_dim(total, _clips(total, start, len(part)) + part, start, 0)


def _over_rows(visit, carry, distances):
    """visit(carry, start, count) -> carry, over blocks of the rows."""
    rows, columns = distances.shape
    return _in_parts(visit, carry, rows, max(1, _block_entries(distances.dtype) // columns))


def _over_blocks(visit, carry, rows, columns, dtype):
    """visit(carry, row, rows, column, columns) -> carry, over blocks of rows x columns."""
    most = math.isqrt(_block_entries(dtype))

    def of_rows(carry, row, count):
        return _in_parts(lambda carry, column, width: visit(carry, row, count, column, width), carry, columns, most)

    return _in_parts(of_rows, carry, rows, most)


def _in_parts(visit, carry, length, most):
    """visit(carry, start, count) -> carry, for parts of at most `most` that cover `length`; the last may be shorter."""
    count = math.ceil(length / math.ceil(length / most))
    whole = length // count
    if whole == 1:
        carry = visit(carry, 0, count)
    else:
        carry, _ = jax.lax.scan(lambda carry, i: (visit(carry, i * count, count), None), carry, jnp.arange(whole))
    return visit(carry, whole * count, length % count) if length % count else carry


def _block_entries(dtype):
    return (_CPU_BLOCK_BYTES if tiling.target() == "cpu" else _ACCELERATOR_BLOCK_BYTES) // dtype.itemsize


def _check_choice(normalization):
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")


def _checked_temperature(temperature, dtype):
    if not isinstance(temperature, jax.core.Tracer) and not (np.ndim(temperature) == 0 and temperature > 0):
        raise ValueError(f"temperature: expected one positive number, got {temperature}")
    return jnp.asarray(temperature, dtype)


def _checked(loss_and_spread, normalization):
    """The results, unless "mean" was given a negative distance: an error, or under jit a loss of NaN."""
    loss, spread = loss_and_spread[0], jax.lax.stop_gradient(loss_and_spread[1])
    if normalization != "mean":
        return loss, spread
    negative = spread.least < -_NEGATIVE_SLACK * jnp.maximum(spread.most, -spread.least)
    if isinstance(negative, jax.core.Tracer):
        return loss + jnp.where(negative, jnp.nan, 0), spread
    if negative:
        raise ValueError(f'distances: expected none below 0 for normalization="mean", got {spread.least}')
    return loss, spread
