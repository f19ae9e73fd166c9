"""Soft-DTW (Cuturi and Blondel, ICML 2017) and hard DTW, its limit at gamma = 0.

Our choices, where the paper leaves it open: division by the valid n + m, and the debiased divergence (Blondel et al.,
AISTATS 2021).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scav_jax.distances import ground
from scav_jax.distances.ground import XMasks, XSequence, XSequences, YMasks, YSequence, YSequences
from scav_jax.distances.options import check_at_least, check_bool, check_choice
from scav_jax.shapes import Distances

OPTIONS: dict = {"gamma": 0.1, "cost": "sqeuclidean", "normalize": True, "debiased": False}

# Stands for infinity outside the table: inf - inf in the soft minimum would be NaN.
BIG = 1e30


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def softmin(a: Float[Array, "..."], b: Float[Array, "..."], c: Float[Array, "..."], gamma: float | int):
    """-gamma log sum exp(-v / gamma) of three arrays; the minimum at gamma = 0, whose gradient ties share.

    Its derivative keeps the probabilities of the forward pass: rebuilt from the results they would cancel in float32.
    """
    return _softmin(a, b, c, gamma)[0]


def _softmin(a, b, c, gamma):
    """The soft minimum and the three probabilities."""
    least = jnp.minimum(jnp.minimum(a, b), c)
    if gamma == 0:
        weights = [(v == least).astype(v.dtype) for v in (a, b, c)]
    else:
        weights = [jnp.exp((least - v) / gamma) for v in (a, b, c)]
    total = weights[0] + weights[1] + weights[2]
    return least - gamma * jnp.log(total), [w / total for w in weights]


@softmin.defjvp
def _softmin_jvp(gamma, primals, tangents):
    a, b, c = primals
    value, weights = _softmin(a, b, c, gamma)
    return value, sum(w * t for w, t in zip(weights, tangents, strict=True))


def pair(
    x: XSequence,
    x_mask: Bool[Array, " n"],
    y: YSequence,
    y_mask: Bool[Array, " m"],
    *,
    gamma: float | int,
    cost: str,
    normalize: bool,
    debiased: bool,
) -> Float[Array, ""]:
    """R[n, m] of R[i, j] = cost(x_i, y_j) + softmin(R[i-1, j-1], R[i-1, j], R[i, j-1]), at the valid corner.

    debiased: d(x, y) - (d(x, x) + d(y, y)) / 2. normalize: at the end, divided by the valid n + m.
    """

    def table_corner(x, x_mask, y, y_mask):
        def row(above, costs):
            def cell(left, inputs):
                diagonal, up, frame_cost = inputs
                value = frame_cost + softmin(diagonal, up, left, gamma)
                return value, value

            _, values = jax.lax.scan(cell, jnp.full_like(above[0], BIG), (above[:-1], above[1:], costs))
            values = jnp.concatenate([jnp.full_like(values[:1], BIG), values])
            return values, values[1:]

        costs = ground.cost_matrix(x, y, cost)
        before_first = jnp.full_like(costs, BIG, shape=(len(y) + 1,)).at[0].set(0)
        _, table = jax.lax.scan(row, before_first, costs)
        return table[jnp.sum(x_mask) - 1, jnp.sum(y_mask) - 1]

    value = table_corner(x, x_mask, y, y_mask)
    if debiased:
        value -= (table_corner(x, x_mask, x, x_mask) + table_corner(y, y_mask, y, y_mask)) / 2
    return value / (jnp.sum(x_mask) + jnp.sum(y_mask)) if normalize else value


def check_options(*, gamma, cost, normalize, debiased) -> None:
    check_at_least("gamma", gamma, 0)
    check_choice("cost", cost, ground.COSTS)
    check_bool("normalize", normalize)
    check_bool("debiased", debiased)


def can_be_negative(*, gamma, cost, normalize, debiased) -> bool:
    """Soft-DTW sums over all paths and so falls below the best one; neither hard DTW nor the divergence is negative."""
    return gamma > 0 and not debiased


def prepare(x: XSequences, x_mask: XMasks | None, y: YSequences, y_mask: YMasks | None, **options) -> tuple[dict, dict]:
    """What the pairs need of each clip: its frames and valid length (absent where all clips are full)."""
    return _clips(x, x_mask), _clips(y, y_mask)


def _clips(frames, mask):
    return dict(frames=frames) if mask is None else dict(frames=frames, length=jnp.sum(mask, axis=1))


def self_distance(clips: dict, *, gamma, cost, precision: str, **_) -> Float[Array, " B"]:
    """(B,) unnormalised d(x, x), for the debiased form."""
    costs = ground.self_costs(clips["frames"], cost, precision)
    corner = (clips["length"], clips["length"]) if "length" in clips else None
    return soft_dtw(costs, corner, gamma)


def block(x: dict, y: dict, *, gamma, cost, normalize, debiased, precision: str) -> Distances:
    """All pairs of prepared clips."""
    if x["frames"].shape[1] > y["frames"].shape[1]:  # the recursion's lanes are the shorter side
        return block(y, x, gamma=gamma, cost=cost, normalize=normalize, debiased=debiased, precision=precision).T
    costs = ground.cost_block(x["frames"], y["frames"], cost, precision)
    x_clips, y_clips, n, m = costs.shape
    x_length, y_length = jnp.asarray(n), jnp.asarray(m)
    corner = None
    if "length" in x:
        x_length, y_length = x["length"][:, None], y["length"][None, :]
        corner = jnp.repeat(x["length"], y_clips), jnp.tile(y["length"], x_clips)
    values = soft_dtw(costs.reshape(-1, n, m), corner, gamma).reshape(x_clips, y_clips)
    if debiased:
        values -= (x["self"][:, None] + y["self"][None, :]) / 2
    return values / (x_length + y_length).astype(values.dtype) if normalize else values


def soft_dtw(
    costs: Float[Array, "P n m"], corner: tuple[Int[Array, " P"], Int[Array, " P"]] | None, gamma: float | int
) -> Float[Array, " P"]:
    """Soft-DTW of P cost tables, n <= m, read at `corner` = (valid n, valid m), None = (n, m).

    One scan over anti-diagonals, whose cells depend on the two before only; its lanes are the pairs. Each is
    carried relative to its minimum: the soft minimum then compares small numbers, and its probabilities keep float32's
    digits at small gamma.
    """
    _, n, m = costs.shape
    # Row i moves i to the right: pad the rows by n, flatten, and read rows one shorter. No gather.
    padded = jnp.pad(jnp.moveaxis(costs, 0, -1), ((0, 0), (0, n), (0, 0)), constant_values=BIG)
    skewed = padded.reshape(n * (m + n), -1)[:-n].reshape(n, m + n - 1, -1).swapaxes(0, 1)
    outside = jnp.full_like(skewed[0], BIG)

    def diagonal_step(carry, diagonal_costs):
        origin, before_last, last, offset = carry
        up = jnp.concatenate([outside[:1], last[:-1]])
        diagonal = jnp.concatenate([origin, before_last[:-1]])
        now = diagonal_costs + softmin(diagonal, up, last, gamma)
        least = jax.lax.stop_gradient(jnp.min(now, axis=0))
        carry = outside[:1], last - least[None], now - least[None], offset + least
        return carry, None if corner is None else now + offset[None]

    start = jnp.zeros_like(outside[:1]), outside, outside, jnp.zeros_like(outside[0])
    (_, _, last, offset), diagonals = jax.lax.scan(diagonal_step, start, skewed)
    if corner is None:
        return offset + last[-1]
    row, column = corner[0] - 1, corner[1] - 1
    cell = (row + column) * n + row
    return jnp.take_along_axis(diagonals.reshape(-1, cell.size), cell[None], axis=0)[0]


def values_per_pair(x: dict, y: dict) -> int:
    """Numbers that a block holds for each pair; sets the default tile."""
    return x["frames"].shape[1] * y["frames"].shape[1]
