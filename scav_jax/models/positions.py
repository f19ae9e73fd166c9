"""Relative positions in seconds, so that towers of different frame rates speak of the same distances.

Everything here depends on the length, the rate and the config alone: NumPy constants of the compiled step.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CHOICES = ("bias", "shaw", "rotary", "none")
LINEAR_SHARE = 0.1  # of max_distance_s, where buckets have equal width; BEATs' ratio (80 of 800 steps)
SHORTEST_PERIOD_S = 0.5  # of rotary angles; two frames at 4 Hz, the shortest that such a rate can tell


def time_buckets(length: int, rate_hz: float, num_buckets: int, max_distance_s: float) -> np.ndarray:
    """Bucket of every signed time difference: (length, length) int, [i, j] for key j seen from query i.

    T5's scheme (arXiv 1910.10683) with seconds in place of indices: one half of the buckets for keys at or before the
    query, the other for later ones. In each half, one half has equal widths up to a tenth of `max_distance_s`, the rest
    widths growing geometrically up to `max_distance_s`; all that is farther shares the last one. Equal-width buckets
    are centred on multiples of their width, which keeps rounding errors of common rates away from their edges.
    The scale in seconds is our choice.
    """
    half = num_buckets // 2
    num_linear = half // 2
    linear_s = LINEAR_SHARE * max_distance_s
    difference_s = (np.arange(length)[None, :] - np.arange(length)[:, None]) / rate_hz
    distance_s = np.abs(difference_s)
    linear = distance_s / linear_s * num_linear
    growth = np.log(np.maximum(distance_s, linear_s) / linear_s) / np.log(1 / LINEAR_SHARE)
    scale = np.where(distance_s < linear_s, linear, num_linear + growth * (half - num_linear))
    magnitude = np.minimum(np.floor(scale + 0.5).astype(int), half - 1)
    return magnitude + half * (difference_s > 0)


def rotary_angles(length: int, rate_hz: float, head_width: int, max_distance_s: float) -> np.ndarray:
    """Angles in radians of rotary positions (arXiv 2104.09864): (length, head_width / 2) float64.

    Periods run geometrically from 0.5 s to 2 `max_distance_s`, so that no two differences within +-`max_distance_s`
    share all angles. Unlike buckets, angles do not saturate beyond it. The periods are our choice.
    """
    periods_s = np.geomspace(SHORTEST_PERIOD_S, 2 * max_distance_s, head_width // 2)
    time_s = np.arange(length) / rate_hz
    return 2 * np.pi * time_s[:, None] / periods_s


def rotate(
    vectors: Float[Array, "length heads head_width"], angles: Float[np.ndarray, "length half"]
) -> Float[Array, "length heads head_width"]:
    """Turns component pair (j, j + head_width / 2) of each vector by the j-th angle of its position."""
    dtype = jnp.promote_types(vectors.dtype, jnp.float32)
    cos, sin = (turn(angles)[:, None, :].astype(dtype) for turn in (np.cos, np.sin))
    first, second = jnp.split(vectors, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
