"""Interpolated Euclidean distance: resample one sequence to the other's length, then average over positions.

Paper: visual to audio, mean squared distance per position. Our choices: half-pixel centres (as image
resizing without corner alignment), edges clamped, both over the valid length; `squared=False`; a common length.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scav_jax.distances import ground
from scav_jax.distances.ground import XMasks, XSequence, XSequences, YMasks, YSequence, YSequences
from scav_jax.distances.options import check_bool, check_count
from scav_jax.shapes import Distances, Masks, Sequences

OPTIONS: dict = {"resample": "x_to_y", "squared": True}


def interpolation_weights(
    source_length: Int[Array, ""] | int, target_length: Int[Array, ""] | int, target: int, source: int, dtype
) -> Float[Array, "target source"]:
    """W, so that W @ frames resamples the first `source_length` rows to the first `target_length` of `target` rows.

    Linear: a hat function around each target position (j + 0.5) * source_length / target_length - 0.5, clamped to the
    valid rows. Rows past `target_length` repeat the last valid row's clamp and are for the caller to mask.
    """
    centres = (jnp.arange(target, dtype=dtype) + 0.5) * jnp.asarray(source_length / target_length, dtype) - 0.5
    centres = jnp.clip(centres, 0, jnp.asarray(source_length, dtype) - 1)
    return jnp.maximum(0, 1 - jnp.abs(centres[:, None] - jnp.arange(source, dtype=dtype)[None, :]))


def pair(
    x: XSequence,
    x_mask: Bool[Array, " n"],
    y: YSequence,
    y_mask: Bool[Array, " m"],
    *,
    resample: str | int,
    squared: bool,
) -> Float[Array, ""]:
    """Mean over positions of the (squared) distance between the sequences brought to one length.

    resample: "x_to_y" takes y's valid length, "y_to_x" x's, a number takes that many positions for both.
    """
    n, m = jnp.sum(x_mask), jnp.sum(y_mask)
    if isinstance(resample, int):
        length, valid = resample, jnp.ones(resample, bool)
    else:
        length, valid = (len(y), y_mask) if resample == "x_to_y" else (len(x), x_mask)
    count = jnp.sum(valid)
    x = interpolation_weights(n, count, length, len(x), x.dtype) @ jnp.where(x_mask[:, None], x, 0)
    y = interpolation_weights(m, count, length, len(y), y.dtype) @ jnp.where(y_mask[:, None], y, 0)
    sq_distances = ground.sq_norm(x - y)
    return jnp.sum(sq_distances if squared else ground.safe_sqrt(sq_distances), where=valid) / count


def pair_alignment(
    x: XSequence,
    x_mask: Bool[Array, " n"],
    y: YSequence,
    y_mask: Bool[Array, " m"],
    *,
    resample: str | int,
    squared: bool,
) -> Float[Array, "n m"]:
    """What each frame weighs where each step is compared, summed over the positions: every valid position adds 1."""
    n, m, dtype = jnp.sum(x_mask), jnp.sum(y_mask), x.dtype
    if isinstance(resample, int):
        onto = [
            interpolation_weights(*pair, dtype)
            for pair in ((n, resample, resample, len(x)), (m, resample, resample, len(y)))
        ]
        return onto[0].T @ onto[1]
    if resample == "x_to_y":
        return jnp.where(y_mask[None, :], interpolation_weights(n, m, len(y), len(x), dtype).T, 0)
    return jnp.where(x_mask[:, None], interpolation_weights(m, n, len(x), len(y), dtype), 0)


def check_options(*, resample, squared) -> None:
    """A value of OPTIONS that cannot be is a ValueError that names the option."""
    if resample not in ("x_to_y", "y_to_x"):
        if isinstance(resample, str):
            raise ValueError(f"resample: expected x_to_y, y_to_x or a number of positions, got {resample!r}")
        check_count("resample", resample)
    check_bool("squared", squared)


def prepare(
    x: XSequences, x_mask: XMasks | None, y: YSequences, y_mask: YMasks | None, *, resample, squared, precision: str
) -> tuple[dict, dict]:
    """What the pairs need of each clip, computed once a clip. Three forms, which `block` tells apart by their keys.

    folded: one grid of positions, squared: vectors whose inner product is <W_x x, W_y y>, so that all pairs are one
    matrix product. aligned: one grid, unsquared: positions stay apart. source and target: ragged clips, whose weights
    differ from pair to pair.
    """
    if x_mask is not None and isinstance(resample, str):
        x_role, y_role = ("source", "target") if resample == "x_to_y" else ("target", "source")
        return {x_role: x, "mask": x_mask}, {y_role: y, "mask": y_mask}
    n, m = x.shape[1], y.shape[1]
    length = {"x_to_y": m, "y_to_x": n}.get(resample, resample)
    x_weights, y_weights = grid_weights(x, x_mask, length), grid_weights(y, y_mask, length)
    if squared and x_mask is None and min(n, m) < length:
        # <W_x x, W_y y> = <x, W_x' W_y y>: folded onto the longer side, the product's inner size is the shorter's.
        fold = x_weights[0].T @ y_weights[0]
        x_vectors, y_vectors = (x, apply_weights(fold[None], y)) if n <= m else (apply_weights(fold.T[None], x), y)
        x_sum, y_sum = _resampled_sq_norm(x, x_weights[0]), _resampled_sq_norm(y, y_weights[0])
        return _folded(x_vectors, x_sum, length), _folded(y_vectors, y_sum, length)
    x_grid, y_grid = apply_weights(x_weights, x), apply_weights(y_weights, y)
    if not squared:
        return dict(aligned=x_grid), dict(aligned=y_grid)
    # Ragged clips have a W of their own each, which folds onto no clip of the other side.
    x_sum, y_sum = (jnp.sum(ground.sq_norm(ground.rounded(grid, precision)), axis=1) for grid in (x_grid, y_grid))
    return _folded(x_grid, x_sum, length), _folded(y_grid, y_sum, length)


def _folded(frames, sum_sq, length):
    vectors = frames.reshape(len(frames), -1)
    return dict(folded=vectors, mean_sq=sum_sq / length, per_position=jnp.full_like(sum_sq, 1 / length))


def _resampled_sq_norm(frames, weights):
    """|W x|^2 of each clip without W x: a row of W holds two neighbours at most, so that W'W is tridiagonal."""
    if len(weights) == frames.shape[1]:  # W is the identity
        return jnp.sum(ground.sq_norm(frames), axis=1)
    gram = weights.T @ weights
    squares = ground.sq_norm(frames) @ jnp.diagonal(gram)
    neighbours = jnp.sum(frames[:, :-1] * frames[:, 1:], axis=2) @ jnp.diagonal(gram, 1)
    return squares + 2 * neighbours


def grid_weights(frames: Sequences, mask: Masks | None, length: int) -> Float[Array, "rows positions length"]:
    """(1 or B, length, frames): each clip's weights onto `length` positions."""
    size, dtype = frames.shape[1], frames.dtype
    if mask is None:
        return interpolation_weights(size, length, length, size, dtype)[None]
    return jax.vmap(lambda n: interpolation_weights(n, length, length, size, dtype))(jnp.sum(mask, axis=1))


def apply_weights(weights: Float[Array, "rows positions length"], frames: Sequences) -> Float[Array, "B positions d"]:
    """Each clip's frames by its weights, or all by the same."""
    # One small product a clip: XLA would transpose all frames on CPU to make one large product of them.
    return jnp.matmul(jnp.broadcast_to(weights, (len(frames), *weights.shape[1:])), frames, precision="highest")


def block(x: dict, y: dict, *, resample, squared, precision: str) -> Distances:
    """All pairs of prepared clips."""
    if "folded" in x:
        products = ground.gram(x["folded"], y["folded"], precision) * x["per_position"][:, None]
        return ground.nonnegative(x["mean_sq"][:, None] + y["mean_sq"][None, :] - 2 * products)
    if "aligned" in x:
        x_grid, y_grid = ground.rounded(x["aligned"], precision), ground.rounded(y["aligned"], precision)
        products = ground.product("ipd,jpd->pij", x_grid, y_grid, precision)
        sq_distances = ground.sq_norm(x_grid).T[:, :, None] + ground.sq_norm(y_grid).T[:, None, :] - 2 * products
        return jnp.mean(ground.safe_sqrt(ground.nonnegative(sq_distances)), axis=0)
    return _ragged(x, y, squared, precision) if "source" in x else _ragged(y, x, squared, precision).T


def _ragged(source, target, squared, precision):
    """Interpolates the ground costs instead of the frames, with a correction for the chord between two frames.

    For weights w, 1 - w on neighbours u, v: |w u + (1 - w) v - y|^2 = w |u - y|^2 + (1 - w) |v - y|^2 - w (1 - w)
    |u - v|^2. So a pair with lengths of its own needs n m numbers, not m d.
    """
    x, y = source["source"], target["target"]
    costs = ground.cost_block(x, y, "sqeuclidean", precision).swapaxes(1, 2)
    x_lengths, y_lengths = jnp.sum(source["mask"], axis=1), jnp.sum(target["mask"], axis=1)

    def weights(x_length, y_length):
        return interpolation_weights(x_length, y_length, y.shape[1], x.shape[1], costs.dtype).T

    weight = jax.vmap(jax.vmap(weights, (None, 0)), (0, None))(x_lengths, y_lengths)  # (Bx, By, n, m)
    frames = ground.rounded(x, precision)
    sq_chords = ground.sq_norm(frames[:, 1:] - frames[:, :-1])[:, None, :, None]
    chord_terms = weight[:, :, :-1] * weight[:, :, 1:] * sq_chords
    sq_distances = jnp.sum(weight * costs, axis=2) - jnp.sum(chord_terms, axis=2)
    sq_distances = ground.nonnegative(sq_distances)
    distances = sq_distances if squared else ground.safe_sqrt(sq_distances)
    return jnp.sum(jnp.where(target["mask"][None, :, :], distances, 0), axis=2) / y_lengths[None, :]


def tile_budget(x: dict, y: dict) -> dict[str, int]:
    """The ragged form passes over a few tables of n m numbers, the aligned one over a number a position."""
    if "folded" in x:
        values = 1
    elif "aligned" in x:
        values = x["aligned"].shape[1]
    else:
        values = x["mask"].shape[1] * y["mask"].shape[1]
    frames = next(v for key, v in x.items() if key in ("folded", "aligned", "source", "target"))
    return dict(pair_bytes=values * frames.dtype.itemsize, cpu_tile_bytes=2**25 if "folded" in x else 2**21)
