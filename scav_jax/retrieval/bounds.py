"""Lower bounds of the sequential distances that cost a fraction of them, so that search may skip what cannot win.

Frames are reduced to r coordinates along an orthonormal basis and the norm of the rest. For any two frames

    |x - y|^2  >=  |P x - P y|^2 + (|x - P'P x| - |y - P'P y|)^2,

the distance of the reduced frames, and every distance here grows with its ground costs. What is done with the reduced
costs: interpolated Euclidean itself; of Wasserstein the dual after its first half-update, which all later updates only
raise, converged or not; of DTW the larger of the sums of its rows' and of its columns' minima, less gamma times the log
of the number of monotone paths where the minimum is soft. Debiased distances have their self-terms subtracted.

Rounding: a bound is lowered by SLACK of the scale of its terms, so that it also holds for distances as computed.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scav_jax.distances import ground
from scav_jax.distances.euclidean import interpolation_weights
from scav_jax.distances.ground import XMasks, XSequences, YMasks, YSequences
from scav_jax.distances.pairwise import pairwise
from scav_jax.distances.wasserstein import OPTIONS as WASSERSTEIN
from scav_jax.distances.wasserstein import append_position
from scav_jax.shapes import Distances, Masks, Sequences, full_mask

SLACK = 2e-5


def basis(frames: Float[np.ndarray, "N d"], rank: int) -> Float[np.ndarray, "d rank"]:
    """The orthonormal directions along which these frames vary most; any others would do, and prune less."""
    moments = frames.T.astype(np.float64) @ frames.astype(np.float64)
    _, vectors = np.linalg.eigh(moments)
    return vectors[:, ::-1][:, : min(rank, frames.shape[1])].astype(np.float32)


def lower_bounds(
    name: str,
    x: XSequences,
    y: YSequences,
    x_mask: XMasks | None,
    y_mask: YMasks | None,
    basis: Float[Array, "d rank"],
    *,
    unit_norm: bool = False,
    **options: Any,
) -> Distances:
    """(Bx, By) numbers that `pairwise(name, x, y, x_mask, y_mask, ...)` with the same options is never below.

    Masks are both given or both None. A debiased distance's self-terms are the caller's to subtract: see `self_share`.
    ValueError: a distance that has no bound (cosine of means needs none).
    """
    if name not in _BOUNDS:
        raise ValueError(f"distance: expected one of {', '.join(_BOUNDS)} to bound, got {name!r}")
    if x_mask is not None and y_mask is not None:
        x, y = (jnp.where(mask[:, :, None], side, 0) for side, mask in ((x, x_mask), (y, y_mask)))
    if unit_norm:
        x, y = ground.unit_norm(x), ground.unit_norm(y)
    options.pop("precision", None)
    options.pop("implementation", None)
    return _BOUNDS[name](x, y, x_mask, y_mask, basis, **options)


def reduced(frames: Float[Array, "B length d"], basis: Float[Array, "d rank"]) -> Float[Array, "B length columns"]:
    """Coordinates along the basis, and the norm of what they leave."""
    inside = jnp.matmul(frames, basis, precision="highest")
    rest = frames - jnp.matmul(inside, basis.T, precision="highest")
    return jnp.concatenate([inside, ground.safe_sqrt(ground.sq_norm(rest))[..., None]], axis=-1)


def _euclidean(x, y, x_mask, y_mask, basis, *, resample="x_to_y", squared=True):
    if x_mask is None:
        length = {"x_to_y": y.shape[1], "y_to_x": x.shape[1]}.get(resample, resample)
        x, y = (_onto(side, length) for side in (x, y))
        near_x, near_y = reduced(x, basis), reduced(y, basis)
    else:  # every pair interpolates in its own way: the norms of the rest are not known, the coordinates are
        near_x, near_y = (jnp.matmul(side, basis, precision="highest") for side in (x, y))
    values = pairwise("euclidean", near_x, near_y, x_mask, y_mask, resample=resample, squared=squared)
    return values - SLACK * _scale(x, y, squared)


def _onto(frames, length):
    weights = interpolation_weights(frames.shape[1], length, length, frames.shape[1], frames.dtype)
    return jnp.matmul(weights[None], frames, precision="highest")


def _wasserstein(x, y, x_mask, y_mask, basis, **options):
    chosen = {**WASSERSTEIN, **options}
    x_mask, y_mask = _or_full(x_mask, x), _or_full(y_mask, y)
    if chosen["position_weight"]:  # a direction of its own, kept whole
        x, y = (append_position(side, mask, chosen["position_weight"]) for side, mask in ((x, x_mask), (y, y_mask)))
        basis = jax.scipy.linalg.block_diag(basis, jnp.ones((1, 1), basis.dtype))
    costs = _costs(x, y, basis, chosen["cost"])
    epsilon = chosen["epsilon"]
    log_a = jnp.where(x_mask, -jnp.log(jnp.sum(x_mask, axis=1, keepdims=True)), -jnp.inf)[:, None, :, None]
    g = -epsilon * jax.nn.logsumexp(log_a - costs / epsilon, axis=2)
    half = jnp.sum(jnp.where(y_mask[None], g, 0), axis=2) / jnp.sum(y_mask, axis=1)[None]
    squared = chosen["cost"] != "euclidean"
    return half - SLACK * (_scale(x, y, squared) + epsilon)


def _dtw(x, y, x_mask, y_mask, basis, *, gamma=0.1, cost="sqeuclidean", normalize=True, debiased=False):
    x_mask, y_mask = _or_full(x_mask, x), _or_full(y_mask, y)
    costs = _costs(x, y, basis, cost)
    valid = x_mask[:, None, :, None] & y_mask[None, :, None, :]
    costs = jnp.where(valid, costs, jnp.inf)
    rows, columns = (jnp.min(costs, axis=axis) for axis in (3, 2))
    rows, columns = (jnp.sum(jnp.where(jnp.isfinite(part), part, 0), axis=2) for part in (rows, columns))
    n, m = jnp.sum(x_mask, axis=1), jnp.sum(y_mask, axis=1)
    paths = jnp.asarray(_log_paths(x.shape[1], y.shape[1]))[n[:, None] - 1, m[None] - 1]
    lengths = (n[:, None] + m[None]).astype(costs.dtype)
    values = jnp.maximum(rows, columns) - gamma * paths
    values -= SLACK * lengths * (_scale(x, y, cost != "euclidean") + gamma)
    return values / lengths if normalize else values


@lru_cache(maxsize=32)
def _log_paths(n: int, m: int) -> np.ndarray:
    """(n, m) log of the number of monotone paths through a table of i + 1 rows and j + 1 columns (Delannoy numbers)."""
    paths = [[1] * m for _ in range(n)]
    for i in range(1, n):
        for j in range(1, m):
            paths[i][j] = paths[i - 1][j] + paths[i][j - 1] + paths[i - 1][j - 1]
    return np.array([[math.log(count) for count in row] for row in paths], np.float32)


def self_share(
    name: str, frames: Sequences, mask: Masks | None, *, normalize: bool = True, **options: Any
) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
    """Half of each clip's distance to itself, as a debiased distance subtracts it, and its valid length.

    DTW's values combine before they are divided by the lengths, so these are not divided.
    """
    options = {key: value for key, value in options.items() if key != "debiased"}
    own: dict[str, Any] = {"normalize": False} if name == "dtw" else {}

    def one(clip, valid):
        own_mask = None if mask is None else valid[None]
        return pairwise(name, clip[None], clip[None], own_mask, own_mask, **{**options, **own})[0, 0]

    valid = full_mask(frames) if mask is None else mask
    return jax.lax.map(lambda pair: one(*pair), (frames, valid)) / 2, jnp.sum(valid, axis=1)


def debias(
    name: str, bounds: Distances, x_self: tuple, y_self: tuple, *, normalize: bool = True
) -> Float[Array, "Bx By"]:
    """Bounds of the debiased distance out of those of the plain one and both sides' `self_share`."""
    shares = x_self[0][:, None] + y_self[0][None]
    scale = jnp.abs(x_self[0])[:, None] + jnp.abs(y_self[0])[None]
    if name == "dtw" and normalize:
        lengths = (x_self[1][:, None] + y_self[1][None]).astype(bounds.dtype)
        shares, scale = shares / lengths, scale / lengths
    return bounds - shares - SLACK * scale


def _costs(x, y, basis, cost):
    """(Bx, By, n, m) ground costs of reduced frames; "cosine" is half the square between frames of norm 1."""
    if cost == "cosine":
        x, y = ground.unit_norm(x), ground.unit_norm(y)
    x, y = reduced(x, basis), reduced(y, basis)
    products = jnp.einsum("xnr,ymr->xynm", x, y, precision="highest")
    sq = ground.sq_norm(x)[:, None, :, None] + ground.sq_norm(y)[None, :, None, :] - 2 * products
    sq = jnp.maximum(sq, 0)
    return jnp.sqrt(sq) if cost == "euclidean" else sq / 2 if cost == "cosine" else sq


def _scale(x, y, squared):
    """(Bx, By) of the size that ground costs may have: what their rounding is relative to."""
    largest = (jnp.max(ground.sq_norm(side), axis=1) for side in (x, y))
    x_sq, y_sq = largest
    sq = x_sq[:, None] + y_sq[None]
    # The root of a cost that rounding made of 0 is the root of that rounding.
    return sq if squared else jnp.sqrt(sq) / math.sqrt(SLACK)


def _or_full(mask, frames):
    return full_mask(frames) if mask is None else mask


_BOUNDS: dict[str, Callable[..., Distances]] = {"euclidean": _euclidean, "dtw": _dtw, "wasserstein": _wasserstein}
