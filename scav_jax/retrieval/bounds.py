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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scav_jax.distances import ground
from scav_jax.distances.euclidean import apply_weights, grid_weights
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


class Reduced(NamedTuple):
    """Clips of one side as bounds see them: r + 1 columns instead of d, and what rounding is relative to."""

    frames: Float[Array, "B length columns"]
    mask: Masks | None
    largest: Float[Array, " B"]  # squared norm of a clip's frames


def reduce(
    name: str,
    clips: Sequences,
    mask: Masks | None,
    basis: Float[Array, "d rank"],
    *,
    length: int | None = None,
    unit_norm: bool = False,
    **options: Any,
) -> Reduced:
    """Once a clip, whatever it is compared with. `length`: see `common_length`.

    ValueError: a distance that has no bound (cosine of means needs none).
    """
    if name not in _BOUNDS:
        raise ValueError(f"distance: expected one of {', '.join(_BOUNDS)} to bound, got {name!r}")
    clips = clips if mask is None else jnp.where(mask[:, :, None], clips, 0)
    clips = ground.unit_norm(clips) if unit_norm else clips
    if name == "wasserstein" and (weight := {**WASSERSTEIN, **options}["position_weight"]):
        # A direction of its own, kept whole.
        clips = append_position(clips, full_mask(clips) if mask is None else mask, weight)
        basis = jax.scipy.linalg.block_diag(basis, jnp.ones((1, 1), basis.dtype))
    if name != "euclidean" and options.get("cost") == "cosine":
        clips = ground.unit_norm(clips)
    largest = jnp.max(ground.sq_norm(clips), axis=1)
    if name == "euclidean":
        if length is None:  # each pair interpolates in its own way: the norms of what is left are not known
            return Reduced(jnp.matmul(clips, basis, precision="highest"), mask, largest)
        clips, mask = apply_weights(grid_weights(clips, mask, length), clips), None
    return Reduced(reduced(clips, basis), mask, largest)


def common_length(name: str, n: int, m: int, *, masked: bool, resample: str | int = "x_to_y", **_: Any) -> int | None:
    """The length onto which both sides of the Euclidean distance are interpolated before any pair is known, or None."""
    if name != "euclidean" or (masked and not isinstance(resample, int)):
        return None
    return resample if isinstance(resample, int) else m if resample == "x_to_y" else n


def lower_bounds(name: str, x: Reduced, y: Reduced, **options: Any) -> Distances:
    """(Bx, By) numbers that `pairwise(name, ...)` of the clips with the same options is never below.

    Masks are both given or both None. A debiased distance's self-terms are the caller's to subtract: see `debias`.
    """
    options = {key: value for key, value in options.items() if key not in ("unit_norm", "precision", "implementation")}
    return _BOUNDS[name](x, y, **options)


def reduced(frames: Float[Array, "B length d"], basis: Float[Array, "d rank"]) -> Float[Array, "B length columns"]:
    """Coordinates along the basis, and the norm of what they leave."""
    inside = jnp.matmul(frames, basis, precision="highest")
    rest = frames - jnp.matmul(inside, basis.T, precision="highest")
    return jnp.concatenate([inside, ground.safe_sqrt(ground.sq_norm(rest))[..., None]], axis=-1)


def _euclidean(x, y, *, resample="x_to_y", squared=True):
    """Of frames that were interpolated, a plain mean: one matrix product."""
    values = pairwise("euclidean", x.frames, y.frames, x.mask, y.mask, resample=resample, squared=squared)
    return values - SLACK * _scale(x, y, squared)


def _wasserstein(x, y, **options):
    chosen = {**WASSERSTEIN, **options}
    x_mask, y_mask = _or_full(x), _or_full(y)
    costs = _costs(x, y, chosen["cost"])
    epsilon = chosen["epsilon"]
    log_a = jnp.where(x_mask, -jnp.log(jnp.sum(x_mask, axis=1, keepdims=True)), -jnp.inf)[:, None, :, None]
    g = -epsilon * jax.nn.logsumexp(log_a - costs / epsilon, axis=2)
    half = jnp.sum(jnp.where(y_mask[None], g, 0), axis=2) / jnp.sum(y_mask, axis=1)[None]
    return half - SLACK * (_scale(x, y, chosen["cost"] != "euclidean") + epsilon)


def _dtw(x, y, *, gamma=0.1, cost="sqeuclidean", normalize=True, debiased=False):
    x_mask, y_mask = _or_full(x), _or_full(y)
    valid = x_mask[:, None, :, None] & y_mask[None, :, None, :]
    costs = jnp.where(valid, _costs(x, y, cost), jnp.inf)
    rows, columns = (jnp.min(costs, axis=axis) for axis in (3, 2))
    rows, columns = (jnp.sum(jnp.where(jnp.isfinite(part), part, 0), axis=2) for part in (rows, columns))
    n, m = jnp.sum(x_mask, axis=1), jnp.sum(y_mask, axis=1)
    paths = jnp.asarray(_log_paths(x_mask.shape[1], y_mask.shape[1]))[n[:, None] - 1, m[None] - 1]
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
    """Half of each clip's distance to itself, as a debiased distance subtracts it, and its valid length (`debias`).

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
    name: str, bounds: Distances, x_self: tuple, y_self: tuple, *, normalize: bool = True, **_: Any
) -> Float[Array, "Bx By"]:
    """Bounds of the debiased distance out of those of the plain one and both sides' `self_share`."""
    shares = x_self[0][:, None] + y_self[0][None]
    scale = jnp.abs(x_self[0])[:, None] + jnp.abs(y_self[0])[None]
    if name == "dtw" and normalize:
        lengths = (x_self[1][:, None] + y_self[1][None]).astype(bounds.dtype)
        shares, scale = shares / lengths, scale / lengths
    return bounds - shares - SLACK * scale


def _costs(x, y, cost):
    """(Bx, By, n, m) ground costs of reduced frames; "cosine" is half the square between frames of norm 1."""
    products = jnp.einsum("xnr,ymr->xynm", x.frames, y.frames, precision="highest")
    sq = ground.sq_norm(x.frames)[:, None, :, None] + ground.sq_norm(y.frames)[None, :, None, :] - 2 * products
    sq = jnp.maximum(sq, 0)
    return jnp.sqrt(sq) if cost == "euclidean" else sq / 2 if cost == "cosine" else sq


def _scale(x, y, squared):
    """(Bx, By) of the size that ground costs may have: what their rounding is relative to."""
    sq = x.largest[:, None] + y.largest[None]
    # The root of a cost that rounding made of 0 is the root of that rounding.
    return sq if squared else jnp.sqrt(sq) / math.sqrt(SLACK)


def _or_full(clips):
    return full_mask(clips.frames) if clips.mask is None else clips.mask


_BOUNDS: dict[str, Callable[..., Distances]] = {"euclidean": _euclidean, "dtw": _dtw, "wasserstein": _wasserstein}
