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
def softmin(diagonal: Float[Array, "..."], up: Float[Array, "..."], left: Float[Array, "..."], gamma: float | int):
    """-gamma log sum exp(-v / gamma) of a cell's three predecessors; at gamma = 0 the minimum.

    Its derivative is made of the three probabilities; at gamma = 0 it is that of the first least one in this order.
    """
    return _softmin(diagonal, up, left, gamma)[0]


def _softmin(diagonal, up, left, gamma):
    """The soft minimum and the three probabilities."""
    predecessors = diagonal, up, left
    least = jnp.minimum(jnp.minimum(diagonal, up), left)
    if gamma == 0:
        choice = _choice(*predecessors)
        return least, [(choice == i).astype(least.dtype) for i in range(3)]
    weights = [jnp.exp((least - v) / gamma) for v in predecessors]
    total = weights[0] + weights[1] + weights[2]
    return least - gamma * jnp.log(total), [w / total for w in weights]


def _choice(diagonal, up, left):
    """Where the best path comes from: 0 diagonal, 1 up, 2 left, in this order where they tie."""
    choice = jnp.where(up <= left, 1, 2)
    return jnp.where(diagonal <= jnp.minimum(up, left), 0, choice).astype(jnp.int8)


@softmin.defjvp
def _softmin_jvp(gamma, primals, tangents):
    diagonal, up, left = primals
    value, weights = _softmin(diagonal, up, left, gamma)
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


def block(x: dict, y: dict, *, gamma, cost, normalize, debiased, precision: str) -> Distances:
    """All pairs of prepared clips."""
    if x["frames"].shape[1] > y["frames"].shape[1]:  # the sweep's lanes are the shorter side
        return block(y, x, gamma=gamma, cost=cost, normalize=normalize, debiased=debiased, precision=precision).T
    (x_clips, n, _), (y_clips, m, _) = x["frames"].shape, y["frames"].shape
    costs = ground.cost_block(y["frames"].swapaxes(0, 1), x["frames"].swapaxes(0, 1), cost, precision)
    if "mask" in x:  # cheap padding would draw the minimum of a diagonal, and the digits, away from the valid cells
        costs = jnp.where(y["mask"].T[:, :, None, None] & x["mask"].T[None, None, :, :], costs, BIG)
    tables = diagonals(jnp.transpose(costs, (2, 0, 1, 3)).reshape(n, m, -1))  # pairs in the order (y, x)
    lengths = jnp.tile(x["length"], y_clips), jnp.repeat(y["length"], x_clips)
    values = soft_dtw(tables, *lengths, gamma).reshape(y_clips, x_clips).T
    if debiased:
        values -= (x["self"][:, None] + y["self"][None, :]) / 2
    return values / (x["length"][:, None] + y["length"][None, :]).astype(values.dtype) if normalize else values


def diagonals(costs: Float[Array, "n m P"]) -> Float[Array, "n K P"]:
    """Row i moved i to the right: column k holds anti-diagonal k of each of P tables, K = n + m - 1; BIG elsewhere."""
    n, m, pairs = costs.shape
    # Pad the rows by n, flatten, and read rows one shorter: no gather.
    padded = jnp.pad(costs, ((0, 0), (0, n), (0, 0)), constant_values=BIG)
    return padded.reshape(n * (m + n), pairs)[:-n].reshape(n, m + n - 1, pairs)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def soft_dtw(
    tables: Float[Array, "n K P"], x_length: Int[Array, " P"], y_length: Int[Array, " P"], gamma: float | int
) -> Float[Array, " P"]:
    """Soft-DTW of P tables of `diagonals`, each read at the last cell of its valid lengths.

    One scan over the anti-diagonals, whose cells depend on the two before only; its lanes are the pairs.
    """
    return _sweep(tables, x_length, y_length, gamma, keep=False)[0]


def _sweep(tables, x_length, y_length, gamma, keep):
    """The values, and what the way back needs of each diagonal: its soft minima and the minimum of the one before.

    Each diagonal is carried relative to the minimum of the one before: the soft minimum then compares small numbers,
    and its probabilities keep float32's digits at small gamma.
    """

    def step(carry, k):
        before, last, least_before, least, offset, values = carry
        predecessors = before[:-1] - least_before[None, :], last[:-1], last[1:]
        soft_minima = softmin(*predecessors, gamma)
        now = _at(tables, k, axis=1) - least[None, :] + soft_minima
        offset += least
        ends = k == x_length + y_length - 2

        def read():
            return jnp.where(ends, jnp.take_along_axis(now, x_length[None, :] - 1, axis=0)[0] + offset, values)

        values = jax.lax.cond(jnp.any(ends), read, lambda: values)
        kept = (_choice(*predecessors) if gamma == 0 else soft_minima, least) if keep else None
        now = jnp.pad(now, ((1, 0), (0, 0)), constant_values=BIG)
        return (last, now, least, jnp.min(now, axis=0), offset, values), kept

    n, K, pairs = tables.shape
    outside, zeros = jnp.full_like(tables[:, 0], BIG, shape=(n + 1, pairs)), jnp.zeros_like(tables[0, 0])
    start = outside.at[0].set(0), outside, zeros, zeros, zeros, zeros
    (*_, values), kept = jax.lax.scan(step, start, jnp.arange(K))
    return values, kept


def _at(array, k, axis=0):
    return jax.lax.dynamic_index_in_dim(array, k, axis, keepdims=False)


def _soft_dtw_forward(tables, x_length, y_length, gamma):
    values, kept = _sweep(tables, x_length, y_length, gamma, keep=True)
    return values, (tables, x_length, y_length, kept)


def _soft_dtw_backward(gamma, residuals, cotangent):
    """The expected alignment, times the cotangent.

    A cell's share is that of its three successors, each times the probability that the successor was entered from here.
    """
    tables, x_length, y_length, (kept, least) = residuals
    n, K, pairs = tables.shape

    def below(array):
        """Row i + 1 in the place of row i."""
        return jnp.pad(array[1:], ((0, 1), (0, 0)))

    def step(alignment, k):
        right, down, across = _at(kept, k + 1), below(_at(kept, k + 1)), below(_at(kept, k + 2))
        if gamma == 0:
            entered = [right == 2, down == 1, across == 0]
        else:
            here = _at(tables, k, axis=1) - _at(least, k)[None, :] + _at(kept, k)
            differences = right - here, down - here, across - (here - _at(least, k + 1)[None, :])
            entered = [jnp.exp(jnp.minimum(difference / gamma, 0)) for difference in differences]
        next_, next_but_one = _at(alignment, k + 1, axis=1), _at(alignment, k + 2, axis=1)
        shares = next_ * entered[0] + below(next_) * entered[1] + below(next_but_one) * entered[2]
        is_corner = (k == x_length + y_length - 2)[None, :] & (jnp.arange(n)[:, None] == x_length[None, :] - 1)
        shares = jnp.where(is_corner, cotangent[None, :], shares)
        return jax.lax.dynamic_update_index_in_dim(alignment, shares, k, axis=1), None

    # Zeros that XLA cannot make before the sweep is done, when two tables fill the memory already.
    nothing_yet = jnp.broadcast_to(0 * least[-1], (n, K + 2, pairs))
    alignment, _ = jax.lax.scan(step, nothing_yet, jnp.arange(K), reverse=True)
    return alignment[:, :K], None, None


soft_dtw.defvjp(_soft_dtw_forward, _soft_dtw_backward)


def tile_budget(x: dict, y: dict) -> dict[str, int]:
    """Costs, soft minima and alignment, each read once a sweep: on CPU many lanes count for more than caches."""
    n, m = x["frames"].shape[1], y["frames"].shape[1]
    return dict(pair_bytes=3 * min(n, m) * (n + m) * x["frames"].dtype.itemsize, cpu_tile_bytes=2**25)
