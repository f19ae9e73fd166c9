"""InfoNCE over any distance matrix: normalise rows and columns, divide by a temperature, contrast with the diagonal."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scav_jax import distances as sequential
from scav_jax.shapes import Distances

NORMALIZATIONS = ("none", "zscore", "mean", "minmax")

# Under the square root of the variance (of the z-score): rows of equal distances become zeros.
_VARIANCE_FLOOR = 1e-6
# Rounding may push a distance of 0 this far below it, relative to the largest.
_NEGATIVE_SLACK = 1e-5


def contrastive_loss(
    distances: Float[Array, "N N"], temperature: float | int | Float[Array, ""], *, normalization: str = "zscore"
) -> Float[Array, ""]:
    """Mean of the row-wise and the column-wise cross-entropy of -normalised distance / temperature.

    distances: (N, N) over the whole global batch, smaller = closer, positives on the diagonal. Rows are normalised by
    row statistics, columns by column statistics, the positive included; gradients flow through the statistics.
    Differentiable in distances and temperature (a positive number or scalar array).

    normalization: "none"; "zscore" (D - mean) / sqrt(population variance + 1e-6); "mean" D / mean; "minmax"
    (D - min) / (max - min), all 0 where max = min. The paper names a row- and column-wise normalisation; which one is
    open, z-score is our default.

    "mean" of negative distances is meaningless: a ValueError, or under jit, where values are unknown, a loss of NaN.
    `check_normalization` refuses such a pair before any tracing.
    """
    _check_choice(normalization)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or not distances.size:
        raise ValueError(f"distances: expected a square matrix, positives on its diagonal, got {distances.shape}")
    if not isinstance(temperature, jax.core.Tracer) and not (np.ndim(temperature) == 0 and temperature > 0):
        raise ValueError(f"temperature: expected one positive number, got {temperature}")
    if normalization == "mean":
        distances = _refuse_negative(distances)
    rows = _cross_entropy(normalize(distances, normalization) / temperature)
    columns = _cross_entropy(normalize(distances.T, normalization) / temperature)
    return (rows + columns) / 2


def normalize(distances: Distances, normalization: str) -> Distances:
    """Each row of (Q, G) distances by that row's statistics."""
    _check_choice(normalization)
    if normalization == "none":
        return distances
    mean = jnp.mean(distances, axis=1, keepdims=True)
    if normalization == "zscore":
        variance = jnp.mean(jnp.square(distances - mean), axis=1, keepdims=True)
        return (distances - mean) / jnp.sqrt(variance + _VARIANCE_FLOOR)
    if normalization == "mean":
        return _divide(distances, mean)
    least, most = jnp.min(distances, axis=1, keepdims=True), jnp.max(distances, axis=1, keepdims=True)
    return _divide(distances - least, most - least)


def check_normalization(normalization: str, name: str, **options) -> None:
    """Raises ValueError if `normalization` cannot take the distance `name` with these options, whatever the batch."""
    _check_choice(normalization)
    if normalization == "mean" and sequential.can_be_negative(name, **options):
        raise ValueError(f'normalization: expected another than "mean", {name} with {options} can be negative')


def _check_choice(normalization):
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")


def _refuse_negative(distances):
    negative = jnp.min(distances) < -_NEGATIVE_SLACK * jnp.max(jnp.abs(distances))
    if isinstance(negative, jax.core.Tracer):
        return jnp.where(negative, jnp.nan, distances)
    if negative:
        raise ValueError(f'distances: expected none below 0 for normalization="mean", got {jnp.min(distances)}')
    return distances


def _divide(values, scale):
    """values / scale, and 0 for 0 / 0, whose gradient would be NaN."""
    return jnp.where(scale == 0, 0, values / jnp.where(scale == 0, 1, scale))


def _cross_entropy(scaled):
    """Mean over rows of -log softmax(-scaled) on the diagonal."""
    return jnp.mean(jnp.diagonal(scaled) + jax.nn.logsumexp(-scaled, axis=1))
