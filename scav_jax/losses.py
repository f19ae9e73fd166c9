"""InfoNCE over any distance matrix: normalise rows and columns, divide by a temperature, contrast with the diagonal."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scav_jax import distances as sequential
from scav_jax import parallel
from scav_jax.shapes import Distances

NORMALIZATIONS = ("none", "zscore", "mean", "minmax")

# Under the square root of the variance (of the z-score): rows of equal distances become zeros.
_VARIANCE_FLOOR = 1e-6
# Rounding may push a distance of 0 this far below it, relative to the largest.
_NEGATIVE_SLACK = 1e-5


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
    (D - min) / (max - min), all 0 where max = min. The paper names a row- and column-wise normalisation; which one is
    open, z-score is our default.

    axis_name: inside jax.shard_map over that mesh axis, where distances are this device's (N / devices, N) rows.

    "mean" of negative distances is meaningless: a ValueError, or under jit, where values are unknown, a loss of NaN.
    `check_normalization` refuses such a pair before any tracing.
    """
    _check_choice(normalization)
    devices = parallel.size(axis_name)
    if distances.ndim != 2 or distances.shape[0] * devices != distances.shape[1] or not distances.size:
        raise ValueError(
            f"distances: expected a square matrix, positives on its diagonal, got {distances.shape}"
            + (f" on each of {devices} devices" if axis_name else "")
        )
    if not isinstance(temperature, jax.core.Tracer) and not (np.ndim(temperature) == 0 and temperature > 0):
        raise ValueError(f"temperature: expected one positive number, got {temperature}")
    temperature = jnp.asarray(temperature, distances.dtype)
    loss = _loss(distances, temperature, normalization, axis_name)
    return loss + _refuse_negative(distances, axis_name) if normalization == "mean" else loss


def normalize(distances: Distances, normalization: str) -> Distances:
    """Each row of (Q, G) distances by that row's statistics."""
    _check_choice(normalization)
    rows = _Side(1, None)
    least, most = rows.min(distances), rows.max(distances)
    return _normalized(distances, *_shift_and_scale(distances, least, most, rows, normalization))


def check_normalization(normalization: str, name: str, **options) -> None:
    """Raises ValueError if `normalization` cannot take the distance `name` with these options, whatever the batch."""
    _check_choice(normalization)
    if normalization == "mean" and sequential.can_be_negative(name, **options):
        raise ValueError(f'normalization: expected another than "mean", {name} with {options} can be negative')


class _Side(NamedTuple):
    """Rows (dimension 1 is reduced), or columns (dimension 0, and the mesh axis over which the rows are spread)."""

    dimension: int
    axis_name: str | None

    def sum(self, values):
        return self._over_devices(jnp.sum(values, self.dimension, keepdims=True), jax.lax.psum)

    def min(self, values):
        return self._over_devices(jnp.min(values, self.dimension, keepdims=True), jax.lax.pmin)

    def max(self, values):
        return self._over_devices(jnp.max(values, self.dimension, keepdims=True), jax.lax.pmax)

    def _over_devices(self, values, collective):
        return values if self.axis_name is None else collective(values, self.axis_name)


class _Statistics(NamedTuple):
    """Of every row (rows, 1), or column (1, N): z = (D - shift) / scale, p = softmax(-z / temperature)."""

    least: Array
    most: Array
    shift: Array
    scale: Array
    log_total: Array  # log sum exp(-z / temperature)
    expected: Array  # sum p z
    positive: Array  # z on the diagonal


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _loss(distances, temperature, normalization, axis_name):
    return _forward(distances, temperature, normalization, axis_name)[0]


def _forward(distances, temperature, normalization, axis_name):
    rows, columns = (
        _statistics(distances, positives, temperature, side, normalization)
        for positives, side in zip(_positives(distances, axis_name), _sides(axis_name), strict=True)
    )
    row_terms, column_terms = (jnp.sum(s.positive / temperature + s.log_total) for s in (rows, columns))
    loss = (parallel.total(row_terms, axis_name) + column_terms) / (2 * distances.shape[1])
    return loss, (distances, temperature, rows, columns)


def _backward(normalization, axis_name, residuals, cotangent):
    """In D and the temperature. Of z: g = (1 on the diagonal - p) c, whose rows sum to 0; then through the statistics.

    With G = sum g z of a row, c (positive - expected): z-score and mean give (g - z G / N) / scale and
    (g - G / N) / scale, and minmax G / scale more at the minimum and less at the maximum (shared where several tie).
    """
    distances, temperature, *both = residuals
    count = distances.shape[1]
    c = cotangent / (2 * count * temperature)
    own_column = parallel.index(axis_name) * len(distances) + jnp.arange(len(distances))
    on_diagonal = own_column[:, None] == jnp.arange(count)[None, :]
    gradient, weighted = 0, []
    for s, side in zip(both, _sides(axis_name), strict=True):
        z = _normalized(distances, s.shift, s.scale)
        g = (on_diagonal - jnp.exp(-z / temperature - s.log_total)) * c
        weighted.append(c * (s.positive - s.expected))
        if normalization == "zscore":
            g -= z * weighted[-1] / count
        elif normalization == "mean":
            g -= weighted[-1] / count
        elif normalization == "minmax":
            least, most = distances == s.least, distances == s.most
            g += weighted[-1] * (least / side.sum(least) - most / side.sum(most))
        gradient += _divide(g, s.scale)
    rows, columns = (jnp.sum(values) for values in weighted)
    return gradient, -(parallel.total(rows, axis_name) + columns) / temperature


_loss.defvjp(_forward, _backward)


def _sides(axis_name):
    return _Side(1, None), _Side(0, axis_name)


def _statistics(distances, positives, temperature, side, normalization):
    least, most = side.min(distances), side.max(distances)
    shift, scale = _shift_and_scale(distances, least, most, side, normalization)
    z, least_z = _normalized(distances, shift, scale), _normalized(least, shift, scale)
    weights = jnp.exp((least_z - z) / temperature)
    total = side.sum(weights)
    log_total = jnp.log(total) - least_z / temperature
    return _Statistics(
        least, most, shift, scale, log_total, side.sum(weights * z) / total, _normalized(positives, shift, scale)
    )


def _shift_and_scale(distances, least, most, side, normalization):
    if normalization == "none":
        return jnp.zeros_like(least), jnp.ones_like(least)
    if normalization == "minmax":
        return least, most - least
    count = distances.shape[1]  # columns are as long: either the matrix is square, or rows alone are normalised
    mean = side.sum(distances) / count
    if normalization == "mean":
        return jnp.zeros_like(mean), mean
    return mean, jnp.sqrt(side.sum(jnp.square(distances - mean)) / count + _VARIANCE_FLOOR)


def _normalized(distances, shift, scale):
    return _divide(distances - shift, scale)


def _positives(distances, axis_name):
    """The diagonal as (rows, 1), of this device's rows, and as (1, N), of all."""
    own = parallel.positives(distances, axis_name)
    places = parallel.index(axis_name) * len(own) + jnp.arange(len(own))
    placed = jnp.zeros_like(distances[0]).at[places].set(own)
    return own[:, None], parallel.total(placed, axis_name)[None, :]


def _check_choice(normalization):
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")


def _refuse_negative(distances, axis_name):
    """0, or where a distance is negative an error, or under jit NaN."""
    distances, every = jax.lax.stop_gradient(distances), _Side(0, axis_name)
    least, largest = every.min(distances), every.max(jnp.abs(distances))
    negative = jnp.min(least) < -_NEGATIVE_SLACK * jnp.max(largest)
    if isinstance(negative, jax.core.Tracer):
        return jnp.where(negative, jnp.nan, 0)
    if negative:
        raise ValueError(f'distances: expected none below 0 for normalization="mean", got {jnp.min(distances)}')
    return 0


def _divide(values, scale):
    """values / scale, and 0 for 0 / 0, whose gradient would be NaN."""
    return jnp.where(scale == 0, 0, values / jnp.where(scale == 0, 1, scale))
