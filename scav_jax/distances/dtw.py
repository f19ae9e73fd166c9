"""Soft-DTW (Cuturi and Blondel, ICML 2017) and hard DTW, its limit at gamma = 0.

Our choices, where the paper leaves it open: division by the valid n + m, and the debiased divergence (Blondel et al.,
AISTATS 2021).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scav_jax.distances import ground
from scav_jax.distances.ground import XMasks, XSequence, XSequences, YMasks, YSequence, YSequences
from scav_jax.distances.options import check_at_least, check_bool, check_choice
from scav_jax.distances.polynomials import exp2, log1p
from scav_jax.shapes import Distances

OPTIONS: dict = {"gamma": 0.1, "cost": "sqeuclidean", "normalize": True, "debiased": False}

# Stands for infinity outside the table: inf - inf in the soft minimum would be NaN.
BIG = 1e30
# Diagonals in one turn of a sweep's loop: what a turn costs by itself counts.
UNROLL = 3


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def softmin(diagonal: Float[Array, "..."], up: Float[Array, "..."], left: Float[Array, "..."], gamma: float | int):
    """-gamma log sum exp(-v / gamma) of a cell's three predecessors; at gamma = 0 the minimum.

    Its derivative is made of the three probabilities; at gamma = 0 it is that of the first least one in this order.
    """
    low, high = jnp.minimum(diagonal, up), jnp.maximum(diagonal, up)
    least = jnp.minimum(low, left)
    if gamma == 0:
        return least
    others = jnp.maximum(low, jnp.minimum(high, left)), jnp.maximum(high, left)
    return least - gamma * log1p(_boltzmann(least - others[0], gamma) + _boltzmann(least - others[1], gamma))


def _boltzmann(differences, gamma):
    """exp(differences / gamma), of differences that but for rounding are not positive."""
    return exp2(jnp.minimum(differences, 0) * (math.log2(math.e) / gamma))


def _choice(diagonal, up, left, transposed=False):
    """Where the best path comes from: 0 diagonal, 1 up, 2 left; the first where they tie, in the table turned back."""
    choice = jnp.where(left <= up if transposed else left < up, 2, 1)
    return jnp.where(diagonal <= jnp.minimum(up, left), 0, choice).astype(jnp.int8)


@softmin.defjvp
def _softmin_jvp(gamma, primals, tangents):
    value = softmin(*primals, gamma)
    if gamma == 0:
        choice = _choice(*primals)
        weights = [(choice == i).astype(value.dtype) for i in range(3)]
    else:
        weights = [_boltzmann(value - v, gamma) for v in primals]
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


def pair_alignment(
    x: XSequence, x_mask: Bool[Array, " n"], y: YSequence, y_mask: Bool[Array, " m"], *, gamma, cost, **_
) -> Float[Array, "n m"]:
    """How likely a path visits each cell: the gradient of the unnormalised distance in the ground costs.

    At gamma = 0 the best path, zeros and ones; where paths tie, one, by the diagonal first.
    """
    costs = jnp.where(x_mask[:, None] & y_mask[None, :], ground.cost_matrix(x, y, cost), BIG)[:, :, None]
    lengths = jnp.sum(x_mask)[None], jnp.sum(y_mask)[None]
    return jax.grad(lambda costs: soft_dtw(diagonals(costs), *lengths, gamma)[0])(costs)[:, :, 0]


def check_options(*, gamma, cost, normalize, debiased) -> None:
    """A value of OPTIONS that cannot be is a ValueError that names the option."""
    check_at_least("gamma", gamma, 0)
    check_choice("cost", cost, ground.COSTS)
    check_bool("normalize", normalize)
    check_bool("debiased", debiased)


def can_be_negative(*, gamma, cost, normalize, debiased) -> bool:
    """Soft-DTW sums over all paths and so falls below the best one; neither hard DTW nor the divergence is negative."""
    return gamma > 0 and not debiased


def prepare(x: XSequences, x_mask: XMasks | None, y: YSequences, y_mask: YMasks | None, **options) -> tuple[dict, dict]:
    """What the pairs need of each clip: its frames, its valid length, and its mask if there is one."""
    return _clips(x, x_mask), _clips(y, y_mask)


def _clips(frames, mask):
    if mask is None:
        return dict(frames=frames, length=jnp.full_like(frames[:, 0, 0], frames.shape[1], dtype=int))
    return dict(frames=frames, length=jnp.sum(mask, axis=1), mask=mask)


def self_distance(clips: dict, *, gamma, cost, precision: str, **_) -> Float[Array, " B"]:
    """(B,) unnormalised d(x, x), for the debiased form."""
    costs = ground.self_costs(clips["frames"], cost, precision)
    if "mask" in clips:
        costs = jnp.where(clips["mask"][:, :, None] & clips["mask"][:, None, :], costs, BIG)
    return soft_dtw(diagonals(jnp.moveaxis(costs, 0, -1)), clips["length"], clips["length"], gamma)


def block(x: dict, y: dict, *, gamma, cost, normalize, debiased, precision: str, transposed=False) -> Distances:
    """All pairs of prepared clips."""
    if x["frames"].shape[1] > y["frames"].shape[1]:  # the sweep's lanes are the shorter side
        options = dict(gamma=gamma, cost=cost, normalize=normalize, debiased=debiased, precision=precision)
        return block(y, x, **options, transposed=True).T
    (x_clips, n, _), (y_clips, m, _) = x["frames"].shape, y["frames"].shape
    costs = ground.cost_block(y["frames"].swapaxes(0, 1), x["frames"].swapaxes(0, 1), cost, precision)
    if "mask" in x:  # cheap padding would draw the minimum of a diagonal, and the digits, away from the valid cells
        costs = jnp.where(y["mask"].T[:, :, None, None] & x["mask"].T[None, None, :, :], costs, BIG)
    tables = diagonals(jnp.transpose(costs, (2, 0, 1, 3)).reshape(n, m, -1))  # pairs in the order (y, x)
    lengths = jnp.tile(x["length"], y_clips), jnp.repeat(y["length"], x_clips)
    values = soft_dtw(tables, *lengths, gamma, transposed).reshape(y_clips, x_clips).T
    if debiased:
        values -= (x["self"][:, None] + y["self"][None, :]) / 2
    return values / (x["length"][:, None] + y["length"][None, :]).astype(values.dtype) if normalize else values


def diagonals(costs: Float[Array, "n m P"]) -> Float[Array, "n K P"]:
    """Row i moved i to the right: column k holds anti-diagonal k of each of P tables; BIG elsewhere.

    K is n + m - 1, and what makes it whole turns of the sweep's loop.
    """
    n, m, pairs = costs.shape
    K = UNROLL * math.ceil((n + m - 1) / UNROLL)
    # Rows of K + 1, flattened, and read as rows of K: no gather.
    padded = jnp.pad(costs, ((0, 0), (0, K + 1 - m), (0, 0)), constant_values=BIG)
    return padded.reshape(n * (K + 1), pairs)[:-n].reshape(n, K, pairs)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def soft_dtw(
    tables: Float[Array, "n K P"],
    x_length: Int[Array, " P"],
    y_length: Int[Array, " P"],
    gamma: float | int,
    transposed: bool = False,
) -> Float[Array, " P"]:
    """Soft-DTW of P tables of `diagonals`, each read at the last cell of its valid lengths.

    One scan over the anti-diagonals, whose cells depend on the two before only; its lanes are the pairs.
    transposed: the rows are the clips of y; of paths that tie at gamma = 0, that of the table turned back is taken.
    """
    return _sweep(tables, x_length, y_length, gamma, transposed, keep=False)[0]


def _sweep(tables, x_length, y_length, gamma, transposed, keep):
    """The values, and what the way back needs of each diagonal: its soft minima and the minimum of the one before.

    Each diagonal is carried relative to the minimum of the one before: the soft minimum then compares small numbers,
    and its probabilities keep float32's digits at small gamma.
    """

    def step(carry, inputs):
        k, is_end = inputs
        before, last, least_before, least, offset, values = carry
        predecessors = before[:-1] - least_before[None, :], last[:-1], last[1:]
        soft_minima = softmin(*predecessors, gamma)
        if keep and gamma > 0:
            soft_minima = _stored(soft_minima, (0, 1), 0)[:-1]
        now = _stored(_at(tables, k, axis=1) - least[None, :] + soft_minima, (1, 0), BIG)
        offset += least

        def read():
            corner = jnp.take_along_axis(now, x_length[None, :], axis=0)[0] + offset
            return jnp.where(k == x_length + y_length - 2, corner, values)

        values = jax.lax.cond(is_end, read, lambda: values)
        kept = (_choice(*predecessors, transposed) if gamma == 0 else soft_minima, least) if keep else None
        return (last, now, least, jnp.min(now, axis=0), offset, values), kept

    n, K, pairs = tables.shape
    outside, zeros = jnp.full_like(tables[:, 0], BIG, shape=(n + 1, pairs)), jnp.zeros_like(tables[0, 0])
    start = outside.at[0].set(0), outside, zeros, zeros, zeros, zeros
    is_end = jnp.any(jnp.arange(K)[:, None] == (x_length + y_length - 2)[None, :], axis=1)
    (*_, values), kept = jax.lax.scan(step, start, (jnp.arange(K), is_end), unroll=UNROLL)
    return values, kept


def _at(array, k, axis=0):
    return jax.lax.dynamic_index_in_dim(array, k, axis, keepdims=False)


def _stored(diagonal, border, fill):
    """A diagonal with one row more, above or below, that XLA computes once: not again wherever it is read."""
    return jax.lax.optimization_barrier(jnp.pad(diagonal, (border, (0, 0)), constant_values=fill))


def _soft_dtw_forward(tables, x_length, y_length, gamma, transposed):
    values, kept = _sweep(tables, x_length, y_length, gamma, transposed, keep=True)
    return values, (tables, x_length, y_length, kept)


def _soft_dtw_backward(gamma, transposed, residuals, cotangent):
    """The expected alignment, times the cotangent.

    A cell's share is that of its three successors, each times the probability that the successor was entered from here.
    """
    tables, x_length, y_length, (kept, least) = residuals
    n, K, pairs = tables.shape

    def below(diagonal):
        """Row i + 1 in the place of row i."""
        return jnp.pad(diagonal[1:], ((0, 1), (0, 0)))

    def step(carry, k):
        alignment, next_, next_but_one = carry
        right, down, across = _at(kept, k + 1), below(_at(kept, k + 1)), below(_at(kept, k + 2))
        if gamma == 0:
            entered = [right == 2, down == 1, across == 0]
        else:
            here = _at(tables, k, axis=1) - _at(least, k)[None, :] + _at(kept, k)
            differences = right - here, down - here, across - (here - _at(least, k + 1)[None, :])
            entered = [_boltzmann(difference, gamma) for difference in differences]
        shares = next_[:-1] * entered[0] + next_[1:] * entered[1] + next_but_one[1:] * entered[2]
        is_corner = (k == x_length + y_length - 2)[None, :] & (jnp.arange(n)[:, None] == x_length[None, :] - 1)
        now = _stored(jnp.where(is_corner, cotangent[None, :], shares), (0, 1), 0)
        return (jax.lax.dynamic_update_index_in_dim(alignment, now[:-1], k, axis=1), now, next_), None

    # Zeros that XLA cannot make before the sweep is done, when two tables fill the memory already.
    zeros = 0 * least[-1]
    outside = jnp.broadcast_to(zeros, (n + 1, pairs))
    start = jnp.broadcast_to(zeros, tables.shape), outside, outside
    (alignment, *_), _ = jax.lax.scan(step, start, jnp.arange(K), reverse=True, unroll=UNROLL)
    return alignment, None, None


soft_dtw.defvjp(_soft_dtw_forward, _soft_dtw_backward)


def tile_budget(x: dict, y: dict) -> dict[str, int]:
    """Costs, soft minima and alignment, each read once a sweep: on CPU many lanes count for more than caches."""
    n, m = x["frames"].shape[1], y["frames"].shape[1]
    return dict(pair_bytes=3 * min(n, m) * (n + m) * x["frames"].dtype.itemsize, cpu_tile_bytes=2**25)
