"""Lower bounds of the sequential distances that cost a fraction of them, so that search may skip what cannot win.

Interpolated Euclidean and DTW, hard and soft, grow with their ground costs, and a ground cost of reduced frames is
never above that of the frames. Reduced to r coordinates along orthonormal directions P and the norm of the rest,

    |x - y|^2  >=  |P x - P y|^2 + (|x - P'P x| - |y - P'P y|)^2,

so the distance of the reduced frames is a bound that needs r + 1 products where the distance needs d. A common centre
is subtracted first: it changes no distance and leaves smaller norms to the rest.

Wasserstein, a dual after a number of updates, does not grow with the costs unless it has converged. But it grows with
every update, converged or not: it is bounded by itself after the first iteration, which takes one exponential a cell.
Debiased distances have their self-terms subtracted. Rounding: a bound is lowered by SLACK of the scale of its terms, so
that it also holds as computed.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scav_jax.distances import dtw, first_dual, ground, pairwise, wasserstein
from scav_jax.distances.euclidean import apply_weights, grid_weights
from scav_jax.shapes import Distances, Masks, Sequences, full_mask

NAMES = ("euclidean", "dtw", "wasserstein")
SLACK = 2e-5


class Basis(NamedTuple):
    """Where frames are seen from, and along which orthonormal directions."""

    centre: Float[np.ndarray, " d"]
    directions: Float[np.ndarray, "d rank"]


def basis(sides: Sequence[Float[np.ndarray, "_ d"]], rank: int) -> Basis:
    """Along which the frames of all sides vary most, each side counting alike; any other holds too, and prunes less."""
    centre = np.mean([frames.mean(axis=0, dtype=np.float64) for frames in sides], axis=0)
    moments = sum((frames - centre).T @ (frames - centre) / len(frames) for frames in sides)
    _, vectors = np.linalg.eigh(moments)
    return Basis(centre.astype(np.float32), vectors[:, ::-1][:, : min(rank, len(centre))].astype(np.float32))


class Reduced(NamedTuple):
    """Clips of one side as bounds see them."""

    frames: Any  # (B, length, columns), on the host too
    mask: Any  # (B, length) or None


class Facts(NamedTuple):
    """Of each clip: the largest squared norm of its frames, half its distance to itself, its valid length.

    The distance to itself is 0 where it is not subtracted; DTW's is not divided by the lengths, since a debiased one
    combines first and divides then.
    """

    largest: Float[Array, " B"]
    self_share: Float[Array, " B"]
    lengths: Int[Array, " B"]


def reduce(
    name: str,
    clips: Sequences,
    mask: Masks | None,
    seen: Basis,
    *,
    length: int | None = None,
    unit_norm: bool = False,
    **options: Any,
) -> Reduced | None:
    """Once a clip, whatever it is compared with; None for Wasserstein, which takes the clips as they are.

    length: see `common_length`. ValueError: a distance that has no bound (cosine of means needs none).
    """
    if name not in NAMES:
        raise ValueError(f"distance: expected one of {', '.join(NAMES)} to bound, got {name!r}")
    if name == "wasserstein":
        return None
    clips = _clean(clips, mask, unit_norm=unit_norm, **options) - seen.centre[None, None]
    if name == "euclidean" and length is None:
        # Each pair interpolates in its own way: the norms of what is left are not known.
        return Reduced(jnp.matmul(clips, seen.directions, precision="highest"), mask)
    if length is not None:
        clips, mask = apply_weights(grid_weights(clips, mask, length), clips), None
    return Reduced(reduced(clips, seen.directions), mask)


def facts(name: str, clips: Sequences, mask: Masks | None, **options: Any) -> Facts:
    """What else is known of each clip by itself; options are those of the distance."""
    largest = jnp.max(ground.sq_norm(_clean(clips, mask, **options)), axis=1)
    valid = full_mask(clips) if mask is None else mask
    share = jnp.zeros_like(largest)
    if options.get("debiased"):
        own = {key: value for key, value in options.items() if key != "debiased"}
        own |= {"normalize": False} if name == "dtw" else {}

        def to_itself(clip, clip_mask):
            one = clip_mask[None] if mask is not None else None
            return pairwise(name, clip[None], clip[None], one, one, **own)[0, 0]

        share = jax.lax.map(lambda pair: to_itself(*pair), (clips, valid)) / 2
    return Facts(largest + options.get("position_weight", 0) ** 2, share, jnp.sum(valid, axis=1))


def common_length(name: str, n: int, m: int, *, masked: bool, resample: str | int = "x_to_y", **_: Any) -> int | None:
    """The length onto which both sides of the Euclidean distance are interpolated before any pair is known, or None."""
    if name != "euclidean" or (masked and not isinstance(resample, int)):
        return None
    return resample if isinstance(resample, int) else m if resample == "x_to_y" else n


def lower_bounds(name: str, x: Reduced, y: Reduced, x_facts: Facts, y_facts: Facts, **options: Any) -> Distances:
    """(Bx, By) numbers that `pairwise(name, ...)` of the clips with the same options is never below, as computed.

    Masks are both given or both None.
    """
    own = {key: value for key, value in options.items() if key not in ("implementation", "debiased")}
    if name == "wasserstein":
        values = first_dual(x.frames, y.frames, x.mask, y.mask, **own)
    else:
        own = {key: value for key, value in own.items() if key not in ("unit_norm", "precision")}
        halved = options.get("cost") == "cosine"
        if halved:  # half the squared distance of unit frames, which reduced ones are not: cost and gamma times two
            own |= {"cost": "sqeuclidean", "gamma": 2 * options.get("gamma", _GAMMA)}
        values = pairwise(name, x.frames, y.frames, x.mask, y.mask, **own) / (2 if halved else 1)
    scale = _scale(name, x_facts, y_facts, **options)
    if options.get("debiased"):
        shares = x_facts.self_share[:, None] + y_facts.self_share[None]
        sizes = jnp.abs(x_facts.self_share)[:, None] + jnp.abs(y_facts.self_share)[None]
        if name == "dtw" and options.get("normalize", True):
            lengths = x_facts.lengths[:, None] + y_facts.lengths[None]
            shares, sizes = shares / lengths, sizes / lengths
        values, scale = values - shares, scale + sizes
    return values - scale * (SLACK if options.get("precision", "float32") == "float32" else _BFLOAT16_SLACK)


_GAMMA, _EPSILON = dtw.OPTIONS["gamma"], wasserstein.OPTIONS["epsilon"]
_BFLOAT16_SLACK = 1e-2


def reduced(frames: Float[Array, "B length d"], directions: Any) -> Float[Array, "B length columns"]:
    """Coordinates along the directions, and the norm of what they leave."""
    inside = jnp.matmul(frames, directions, precision="highest")
    rest = frames - jnp.matmul(inside, directions.T, precision="highest")
    return jnp.concatenate([inside, ground.safe_sqrt(ground.sq_norm(rest))[..., None]], axis=-1)


def _clean(clips, mask, *, unit_norm=False, cost="sqeuclidean", **_):
    clips = clips if mask is None else jnp.where(mask[:, :, None], clips, 0)
    return ground.unit_norm(clips) if unit_norm or cost == "cosine" else clips


def _scale(name, x, y, *, cost="sqeuclidean", squared=True, gamma=_GAMMA, epsilon=_EPSILON, normalize=True, **_):
    """(Bx, By) of the size of what a distance adds up: what its rounding is relative to."""
    scale = x.largest[:, None] + y.largest[None]
    if cost == "euclidean" or not squared:
        # The root of a cost that rounding made of 0 is the root of that rounding.
        scale = jnp.sqrt(scale) / math.sqrt(SLACK)
    if name == "dtw":
        return (scale + gamma) * (1 if normalize else x.lengths[:, None] + y.lengths[None])
    return scale + epsilon if name == "wasserstein" else scale
