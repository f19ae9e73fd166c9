"""Entropic Wasserstein distance by Sinkhorn iterations: frames transport to steps with uniform weights.

Our choices, where the paper leaves it open: the position coordinate, which lets transport see order; the debiased
Sinkhorn divergence (Feydy et al., AISTATS 2019); the dual value after a fixed number of updates. The dual rises to
<P, C> + epsilon KL(P | a x b) and equals it at convergence; the gradient is that of <P, C> with the last plan P held
fixed.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from scav_jax.distances import ground
from scav_jax.distances.ground import XMasks, XSequence, XSequences, YMasks, YSequence, YSequences
from scav_jax.distances.options import check_at_least, check_bool, check_choice, check_count
from scav_jax.distances.polynomials import exp2
from scav_jax.distances.tiling import SOLUTION
from scav_jax.shapes import Distances

OPTIONS: dict = {
    "epsilon": 0.1,
    "num_iterations": 100,
    "cost": "sqeuclidean",
    "position_weight": 0.0,
    "debiased": False,
    "solver": "own",
}

# Of the logarithms of scalings, before they are absorbed: two of them and a kernel's entry stay in float32.
_SCALINGS = 33
# Times any weight still a normal float32.
_LEAST_SHARE = 1e-30
# y's frames are the rows of the kernel's products: on CPU whole vectors of them take half the time.
_LANES = 8


def pair(
    x: XSequence,
    x_mask: Bool[Array, " n"],
    y: YSequence,
    y_mask: Bool[Array, " m"],
    *,
    epsilon: float | int,
    num_iterations: int,
    cost: str,
    position_weight: float | int,
    debiased: bool,
    solver: str,
) -> Float[Array, ""]:
    """Mean over valid x of f plus mean over valid y of g, after `num_iterations` updates of g, then f, from zero.

    epsilon is absolute, on the cost. position_weight appends the coordinate weight * (i + 0.5) / valid length.
    debiased: d(x, y) - (d(x, x) + d(y, y)) / 2.
    """

    def value(x, x_mask, y, y_mask):
        costs = ground.cost_matrix(x, y, cost)
        held = jax.lax.stop_gradient(costs)
        f, g, plan = _solve_pair(held, x_mask, y_mask, epsilon, num_iterations, solver)
        # The envelope: costs - held is zero and carries the gradient.
        return jnp.mean(f, where=x_mask) + jnp.mean(g, where=y_mask) + jnp.sum(plan * (costs - held))

    x = append_position(x[None], x_mask[None], position_weight)[0]
    y = append_position(y[None], y_mask[None], position_weight)[0]
    result = value(x, x_mask, y, y_mask)
    if debiased:
        result -= (value(x, x_mask, x, x_mask) + value(y, y_mask, y, y_mask)) / 2
    return result


def pair_alignment(
    x: XSequence,
    x_mask: Bool[Array, " n"],
    y: YSequence,
    y_mask: Bool[Array, " m"],
    *,
    epsilon,
    num_iterations,
    cost,
    position_weight,
    solver,
    **_,
) -> Float[Array, "n m"]:
    """The last transport plan; its sum is 1."""
    x = append_position(x[None], x_mask[None], position_weight)[0]
    y = append_position(y[None], y_mask[None], position_weight)[0]
    return _solve_pair(ground.cost_matrix(x, y, cost), x_mask, y_mask, epsilon, num_iterations, solver)[2]


def _solve_pair(costs, x_mask, y_mask, epsilon, num_iterations, solver):
    """(n, m) costs -> f (n,), g (m,), plan (n, m)."""
    log_a = jnp.where(x_mask, -jnp.log(jnp.sum(x_mask)), -jnp.inf).astype(costs.dtype)
    log_b = jnp.where(y_mask, -jnp.log(jnp.sum(y_mask)), -jnp.inf).astype(costs.dtype)
    solve = _ott_potentials if solver == "ott" else _log_domain_potentials
    f, g = solve(costs, log_a, log_b, epsilon, num_iterations)
    return f, g, jnp.exp((f[:, None] + g[None, :] - costs) / epsilon + log_a[:, None] + log_b[None, :])


def _log_domain_potentials(costs, log_a, log_b, epsilon, num_iterations):
    """(n, m) costs -> f (n,), g (m,)."""

    def update(potentials, _):
        f, _ = potentials
        g = -epsilon * jax.nn.logsumexp((f[:, None] - costs) / epsilon + log_a[:, None], axis=0)
        f = -epsilon * jax.nn.logsumexp((g[None, :] - costs) / epsilon + log_b[None, :], axis=1)
        return (f, g), None

    start = jnp.zeros_like(costs[:, 0]), jnp.zeros_like(costs[0])
    return jax.lax.scan(update, start, length=num_iterations)[0]


def _ott_potentials(costs, log_a, log_b, epsilon, num_iterations):
    """The same by ott-jax, whose potentials hold epsilon log a and epsilon log b; those of padding become 0."""
    try:
        from ott.geometry.geometry import Geometry
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn
    except ImportError as error:
        raise ImportError('solver="ott" needs ott-jax: pip install "ott-jax>=0.6"') from error
    # One check of convergence, at the end: equal minimum and maximum make ott's loop a scan.
    solver = Sinkhorn(
        inner_iterations=num_iterations, min_iterations=num_iterations, max_iterations=num_iterations, threshold=0.0
    )
    with jax.numpy_rank_promotion("allow"):  # ott relies on it, whatever the caller's setting
        result = solver(LinearProblem(Geometry(costs, epsilon=epsilon), jnp.exp(log_a), jnp.exp(log_b)))

    def ours(potential, log_weight):
        valid = jnp.isfinite(log_weight)
        return jnp.where(valid, potential - epsilon * jnp.where(valid, log_weight, 0), 0)

    return ours(result.f, log_a), ours(result.g, log_b)


def append_position(frames, mask, weight):
    """(B, length, d) -> (B, length, d + 1) with weight * (i + 0.5) / valid length; weight 0 appends nothing."""
    if weight == 0:
        return frames
    positions = jnp.arange(frames.shape[1], dtype=frames.dtype) + 0.5
    position = weight * positions[None, :] / jnp.sum(mask, axis=1, keepdims=True).astype(frames.dtype)
    return jnp.concatenate([frames, position[:, :, None]], axis=2)


def check_options(*, epsilon, num_iterations, cost, position_weight, debiased, solver) -> None:
    """A value of OPTIONS that cannot be is a ValueError that names the option."""
    check_at_least("epsilon", epsilon, 0, exclusive=True)
    check_count("num_iterations", num_iterations)
    check_choice("cost", cost, ground.COSTS)
    check_at_least("position_weight", position_weight, 0)
    check_bool("debiased", debiased)
    check_choice("solver", solver, ("own", "ott"))


def can_be_negative(*, debiased, **_) -> bool:
    """The dual starts at a mean of soft minima of costs >= 0 and rises; the divergence is >= 0 once converged."""
    return False


def prepare(
    x: XSequences, x_mask: XMasks | None, y: YSequences, y_mask: YMasks | None, *, position_weight, **_
) -> tuple[dict, dict]:
    """What the pairs need of each clip: its frames and their weights, 1 / valid length or 0."""
    filling = -y.shape[1] % _LANES if y.shape[1] > _LANES else 0
    return _clips(x, x_mask, position_weight), _clips(y, y_mask, position_weight, filling)


def _clips(frames, mask, position_weight, filling=0):
    """filling: frames more, without weight."""
    if mask is None:
        mask = jnp.ones(frames.shape[:2], bool)
    frames = append_position(frames, mask, position_weight)
    frames, mask = jnp.pad(frames, ((0, 0), (0, filling), (0, 0))), jnp.pad(mask, ((0, 0), (0, filling)))
    # Padding repeats the first frame, and with it that frame's potential: bounded, where another's could overflow.
    frames = jnp.where(mask[:, :, None], frames, frames[:, :1])
    weights = mask.astype(frames.dtype)
    return dict(frames=frames, weights=weights / jnp.sum(weights, axis=1, keepdims=True))


def self_distance(clips: dict, *, epsilon, num_iterations, cost, solver, precision: str, **_) -> Float[Array, " B"]:
    """(B,) d(x, x), for the debiased form."""
    costs = ground.self_costs(clips["frames"], cost, precision)
    return transport(costs, clips["weights"], clips["weights"], epsilon, num_iterations, solver)


def block(
    x: dict, y: dict, *, epsilon, num_iterations, cost, position_weight, debiased, solver, precision: str
) -> Distances:
    """All pairs of prepared clips."""
    costs, a, b = _problems(x, y, cost, precision)
    values = transport(costs, a, b, epsilon, num_iterations, solver).reshape(len(x["frames"]), len(y["frames"]))
    return values - (x["self"][:, None] + y["self"][None, :]) / 2 if debiased else values


def marginal_error_block(x: dict, y: dict, *, epsilon, num_iterations, cost, solver, precision: str, **_) -> Distances:
    """Of each pair, the L1 distance of the plan's y-marginal from its weights (0..2); x's is exact after f's update."""
    costs, a, b = _problems(x, y, cost, precision)
    f, g = _potentials(costs, a, b, epsilon, num_iterations, solver)
    plan = _plan(costs, a, b, f, g, epsilon)
    errors = jnp.sum(jnp.abs(jnp.sum(plan, axis=1) - b), axis=1)
    return errors.reshape(len(x["frames"]), len(y["frames"]))


def first_dual_block(x: dict, y: dict, *, epsilon, cost, precision: str, **_) -> Distances:
    """Of each pair the dual after one iteration, out of one exponential a cell.

    y's potential is the nearest cost less a logarithm of shares exp((nearest - C) / epsilon) <= 1, and what x's sums
    are these shares again. One that is smaller counts as _LEAST_SHARE, which lowers the dual.
    """
    a, b = x["weights"], y["weights"]
    costs = ground.cost_block(x["frames"], y["frames"], cost, precision)
    nearest = jnp.min(costs, axis=1)
    shares = exp2((nearest[:, None] - costs) * (math.log2(math.e) / epsilon))
    shares = jnp.maximum(shares, _LEAST_SHARE)
    sums = jnp.einsum("xn,xnym->xym", a, shares, precision="highest")
    rows = jnp.einsum("xym,xnym->xny", b[None] / sums, shares, precision="highest")
    f, g = -epsilon * jnp.log(rows), nearest - epsilon * jnp.log(sums)
    return jnp.einsum("xn,xny->xy", a, f, precision="highest") + jnp.sum(b[None] * g, axis=2)


def _problems(x, y, cost, precision):
    """P = Bx By problems: costs (P, n, m), a (P, n), b (P, m)."""
    costs = ground.cost_block(x["frames"], y["frames"], cost, precision).swapaxes(1, 2)
    x_clips, y_clips, n, m = costs.shape
    a = jnp.repeat(x["weights"], y_clips, axis=0)
    b = jnp.tile(y["weights"], (x_clips, 1))
    return costs.reshape(-1, n, m), a, b


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def transport(
    costs: Float[Array, "P n m"],
    a: Float[Array, "P n"],
    b: Float[Array, "P m"],
    epsilon: float | int,
    num_iterations: int,
    solver: str,
) -> Float[Array, " P"]:
    """Dual value of P problems; its derivative in the costs is the last plan, in the weights nothing."""
    return _dual(a, b, *_potentials(costs, a, b, epsilon, num_iterations, solver))


@transport.defjvp
def _transport_jvp(epsilon, num_iterations, solver, primals, tangents):
    costs, a, b = primals
    f, g = _potentials(costs, a, b, epsilon, num_iterations, solver)
    return _dual(a, b, f, g), jnp.sum(_plan(costs, a, b, f, g, epsilon) * tangents[0], axis=(1, 2))


def _dual(a, b, f, g):
    return jnp.sum(a * f, axis=1) + jnp.sum(b * g, axis=1)


def _plan(costs, a, b, f, g, epsilon):
    return a[:, :, None] * b[:, None, :] * _kernel(costs, f, g, epsilon)


def _potentials(costs, a, b, epsilon, num_iterations, solver):
    """f (P, n), g (P, m)."""
    if solver == "ott":
        if jax.sharding.get_abstract_mesh().manual_axes:
            raise ValueError('solver: expected "own" inside jax.shard_map, whose checks ott-jax\'s loop does not pass')
        solve = partial(_ott_potentials, epsilon=epsilon, num_iterations=num_iterations)
        potentials = jax.vmap(solve)(costs, jnp.log(a), jnp.log(b))
    else:
        potentials = _kernel_domain_potentials(costs, a, b, epsilon, num_iterations)
    return tuple(checkpoint_name(potential, SOLUTION) for potential in potentials)


def _kernel_domain_potentials(costs, a, b, epsilon, num_iterations):
    """Two multiply-adds a cell and iteration, in place of two exponentials, and as stable as the log domain.

    After the first update, in the log domain, a potential moves by at most epsilon log(max(n, m)) an update, and from
    then on by no more than in the update before (soft minima do not expand differences): so far each row (or column) of
    the kernel exp((f + g - C) / epsilon) averages to 1 when it is built, and the scalings u, v since then stay within
    exp(+-_SCALINGS) if it is built again, with u, v absorbed into the potentials, whenever the next `period` updates
    could leave that range. In it they, and every entry that the kernel lost to underflow, are harmless in float32.
    """
    _, n, m = costs.shape
    fastest = math.log(max(n, m, 2))
    period = max(1, min(10, int(_SCALINGS / fastest)))
    g = -epsilon * _log_mean_exp(-costs / epsilon, a[:, :, None], axis=1)
    f = -epsilon * _log_mean_exp((g[:, None, :] - costs) / epsilon, b[:, None, :], axis=2)

    def absorb(f, g, u, v, _):
        f, g = f + epsilon * jnp.log(u), g + epsilon * jnp.log(v)
        return f, g, jnp.ones_like(u), jnp.ones_like(v), _kernel(costs, f, g, epsilon)

    def run(state, length):
        kept, moved, speed = state
        can_leave = moved + length * speed > _SCALINGS
        f, g, u, v, kernel = jax.lax.cond(can_leave, absorb, lambda *kept: kept, *kept)

        def update(scalings, _):
            u, *_ = scalings
            v = 1 / jnp.einsum("pnm,pn->pm", kernel, a * u, precision="highest")
            return (1 / jnp.einsum("pnm,pm->pn", kernel, b * v, precision="highest"), v, u), None

        (u, v, before), _ = jax.lax.scan(update, (u, v, u), length=length)
        moved = jnp.maximum(*(jnp.max(jnp.abs(jnp.log(scaling))) for scaling in (u, v)))
        return (f, g, u, v, kernel), moved, jnp.max(jnp.abs(jnp.log(u / before)))

    start = f, g, jnp.ones_like(f), jnp.ones_like(g), _kernel(costs, f, g, epsilon)
    full, rest = divmod(num_iterations - 1, period)
    state = start, jnp.zeros_like(f[0, 0]), jnp.full_like(f[0, 0], fastest)
    state, _ = jax.lax.scan(lambda state, _: (run(state, period), None), state, length=full)
    (f, g, u, v, _), *_ = run(state, rest) if rest else state
    return f + epsilon * jnp.log(u), g + epsilon * jnp.log(v)


def _kernel(costs, f, g, epsilon):
    return exp2((f[:, :, None] + g[:, None, :] - costs) * (math.log2(math.e) / epsilon))


def _log_mean_exp(values, weights, axis):
    """log of the weighted sum of exp(values); weights >= 0, at least one positive."""
    largest = jnp.max(values, axis=axis, keepdims=True)
    shares = weights * exp2((values - largest) * math.log2(math.e))
    return jnp.squeeze(largest, axis) + jnp.log(jnp.sum(shares, axis=axis))


def tile_budget(x: dict, y: dict) -> dict[str, int]:
    """The kernel is read twice an iteration: on CPU it is to stay in a core's cache. Kept are both potentials."""
    n, m, itemsize = x["frames"].shape[1], y["frames"].shape[1], x["frames"].dtype.itemsize
    return dict(pair_bytes=n * m * itemsize, cpu_tile_bytes=2**20, kept_pair_bytes=(n + m) * itemsize)
