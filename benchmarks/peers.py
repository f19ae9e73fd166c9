"""What a user would take instead, each as its own documentation says and at its fastest settings.

All get the same clips and give all pairs. A peer that is not installed raises ModuleNotFoundError when asked for.
Left out: tslearn's PyTorch backend of cdist_soft_dtw, a hundred times slower than its compiled one.
"""

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Contender, Data, Result, jax_contender
from scav_jax.distances.euclidean import interpolation_weights

ON_CPU = ("tslearn", "pysdtw", "POT", "geomloss")  # as they are called here

Setting = Callable[[], Contender]


def version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def all_costs(x, y):
    """(B, n, d), (B, m, d) -> (B, B, n, m) squared distances by one matrix product, as a careful user writes it."""
    products = jnp.einsum("ind,jmd->ijnm", x, y, precision="highest")
    return jnp.sum(x * x, axis=2)[:, None, :, None] + jnp.sum(y * y, axis=2)[None, :, None, :] - 2 * products


def over_pairs(function: Callable) -> Callable:
    """function(clip of x, clip of y) -> number, vmapped twice."""
    return jax.vmap(jax.vmap(function, (None, 0)), (0, None))


def row_by_row(distances: Callable) -> Callable:
    """distances(x, y), one clip of x at a time, rows computed again on the way back."""

    def rows(x, y):
        return jax.lax.map(jax.checkpoint(lambda clip: distances(clip[None], y)[0]), x)

    return rows


def ott_soft_dtw(data: Data, gamma: float) -> list[Setting]:
    """costs.SoftDTW vmapped twice: on the clips, as documented, and on costs made by one product."""
    from ott.geometry import costs

    @jax.tree_util.register_pytree_node_class
    class Given(costs.SqEuclidean):
        """The first argument is the cost matrix."""

        def all_pairs(self, x, y):
            return x

    def on_costs(x, y):
        unused = jnp.zeros((1, 1), x.dtype)
        return jax.vmap(jax.vmap(lambda c: costs.SoftDTW(gamma, ground_cost=Given())(c, unused)))(all_costs(x, y))

    name = f"{version('ott-jax')} SoftDTW"
    return [
        partial(jax_contender, f"{name}, vmapped", over_pairs(costs.SoftDTW(gamma)), data),
        partial(jax_contender, f"{name}, vmapped, costs by one product", on_costs, data),
    ]


def ott_soft_dtw_by_rows(data: Data, gamma: float) -> list[Setting]:
    from ott.geometry import costs

    distances = row_by_row(over_pairs(costs.SoftDTW(gamma)))
    return [partial(jax_contender, f"{version('ott-jax')} SoftDTW, row by row (our tiling)", distances, data)]


def tslearn_soft_dtw(data: Data, gamma: float) -> list[Setting]:
    """Values only: cdist_soft_dtw, and its two compiled recursions on costs by one product."""
    from tslearn.metrics import cdist_soft_dtw, soft_dtw_fast

    x, y = np.asarray(data.x), np.asarray(data.y)
    name = version("tslearn")

    def cdist(jobs):
        return Contender(
            f"{name} cdist_soft_dtw, n_jobs={jobs}", lambda: Result(cdist_soft_dtw(x, y, gamma=gamma, n_jobs=jobs))
        )

    def core(parallel):
        (_, n, _), (count, m, _) = x.shape, y.shape
        tables = np.empty((count, n + 2, m + 2), np.float32)

        def row(clip):
            costs = _numpy_costs(clip, y)
            with np.errstate(over="ignore"):  # its border is the largest float64
                if parallel:
                    soft_dtw_fast._njit_soft_dtw_batch(costs, tables, gamma)
                else:
                    for cost, table in zip(costs, tables, strict=True):
                        soft_dtw_fast._njit_soft_dtw(cost, table, gamma)
            return tables[:, n, m].copy()

        core = "_njit_soft_dtw_batch" if parallel else "loop of _njit_soft_dtw"
        return Contender(
            f"{name} {core}, float32, costs by products",
            lambda: Result(np.stack([row(clip) for clip in x])),
        )

    return [
        *(partial(core, parallel) for parallel in (False, True)),
        *(partial(cdist, jobs) for jobs in (1, -1)),
    ]


def _numpy_costs(clip, y):
    """(n, d), (B, m, d) -> (B, n, m)"""
    products = (clip @ y.reshape(-1, y.shape[2]).T).reshape(len(clip), *y.shape[:2]).swapaxes(0, 1)
    return np.sum(clip**2, axis=1)[None, :, None] + np.sum(y**2, axis=2)[:, None, :] - 2 * products


def tslearn_loss(data: Data, gamma: float) -> list[Setting]:
    """SoftDTWLossPyTorch, whose compiled recursions run forward and backward."""
    from tslearn.metrics import SoftDTWLossPyTorch

    loss = SoftDTWLossPyTorch(gamma=gamma, dist_func=lambda costs, _: costs.clone())
    return _on_torch_costs(f"{version('tslearn')} SoftDTWLossPyTorch", _shaped(loss), data, chunks=(16, 64))


def pysdtw(data: Data, gamma: float) -> list[Setting]:
    from pysdtw import SoftDTW

    loss = SoftDTW(gamma=gamma, use_cuda=False, dist_func=lambda costs, _: costs)
    return _on_torch_costs(f"{version('pysdtw')} SoftDTW, CPU", _shaped(loss), data, chunks=(4, 16, 64))


def _shaped(loss):
    """A loss of (P, n, d) and (P, m, d), given costs (P, n, m) as its first argument: the second has the shape only."""
    return lambda costs: loss(costs, costs.new_zeros(1, 1, 1).expand(len(costs), costs.shape[2], costs.shape[2]))


def _on_torch_costs(name: str, solve: Callable, data: Data, chunks: Sequence[int], **details) -> list[Setting]:
    """solve(costs (P, n, m)) -> (P,) on costs by one product, some clips of x at a time."""
    solve_clips = lambda x, y: solve(_torch_costs(x, y)).reshape(len(x), len(y))  # noqa: E731
    return [
        partial(_torch_contender, f"{name}, {c} x {len(data.y)} pairs", solve_clips, data, c, **details) for c in chunks
    ]


def _torch_costs(x, y):
    """(r, n, d), (B, m, d) -> (r * B, n, m)"""
    import torch

    products = (x.flatten(0, 1) @ y.flatten(0, 1).T).reshape(*x.shape[:2], *y.shape[:2]).transpose(1, 2)
    costs = (x**2).sum(2)[:, None, :, None] + (y**2).sum(2)[None, :, None, :] - 2 * products
    return torch.flatten(costs, 0, 1)


def _torch_contender(name: str, distances: Callable, data: Data, rows: int, **details) -> Contender:
    """distances(rows of x, y) -> (rows, B), with gradients summed over the rows."""
    import torch

    x, y = (torch.tensor(np.asarray(side), requires_grad=True) for side in (data.x, data.y))
    weights = torch.tensor(np.asarray(data.weights))

    def run():
        x.grad = y.grad = None
        values = []
        for start in range(0, len(x), rows):
            some = distances(x[start : start + rows], y)
            (some * weights[start : start + rows]).sum().backward()
            values.append(some.detach())
        return Result(torch.cat(values), x.grad, y.grad)

    return Contender(name, run, **details)


def soft_dtw_definition(x, y, *, gamma: float, rounded: bool = False):
    """All pairs, cell by cell, apart from the library; rounded: of costs that went through float32."""
    costs = all_costs(x, y)
    if rounded:
        costs += jax.lax.stop_gradient(costs.astype(jnp.float32).astype(costs.dtype) - costs)
    outside = 1e30  # infinite here: exp(-outside / gamma) is zero

    def pair(costs):
        def row(above, line):
            def cell(left, inputs):
                diagonal, up, cost = inputs
                value = cost - gamma * jax.nn.logsumexp(-jnp.stack([diagonal, up, left]) / gamma)
                return value, value

            border = jnp.asarray(outside, costs.dtype)
            _, values = jax.lax.scan(cell, border, (above[:-1], above[1:], line))
            return jnp.concatenate([border[None], values]), None

        first = jnp.full(costs.shape[1] + 1, outside, costs.dtype).at[0].set(0)
        return jax.lax.scan(row, first, costs)[0][-1]

    return jax.vmap(jax.vmap(pair))(costs)


def ott_sinkhorn(data: Data, epsilon: float, iterations: int, *, unrolled: bool) -> list[Setting]:
    """At its best: a scan, one cost tensor; differentiated by the envelope, its default, or through the iterations."""
    scan = dict(inner_iterations=iterations, min_iterations=iterations, max_iterations=iterations, threshold=0.0)
    name = f"{version('ott-jax')} Sinkhorn as a scan"
    settings: list[Setting] = [partial(jax_contender, f"{name}, envelope gradient", _ott_values(epsilon, **scan), data)]
    if unrolled:
        through = _ott_values(epsilon, **scan, implicit_diff=None)
        settings.append(partial(jax_contender, f"{name}, unrolled gradient", through, data))
    return settings


def ott_sinkhorn_by_rows(data: Data, epsilon: float, iterations: int) -> list[Setting]:
    scan = dict(inner_iterations=iterations, min_iterations=iterations, max_iterations=iterations, threshold=0.0)
    distances = row_by_row(_ott_values(epsilon, **scan))
    return [
        partial(jax_contender, f"{version('ott-jax')} Sinkhorn as a scan, row by row (our tiling)", distances, data)
    ]


def ott_sinkhorn_kernel(data: Data, epsilon: float, iterations: int) -> list[Setting]:
    scan = dict(inner_iterations=iterations, min_iterations=iterations, max_iterations=iterations, threshold=0.0)
    name = f"{version('ott-jax')} Sinkhorn as a scan, lse_mode=False"
    note = "no safety: its kernel underflows where costs exceed some 87 epsilon"
    return [partial(jax_contender, name, _ott_values(epsilon, **scan, lse_mode=False), data, note=note)]


def ott_sinkhorn_default(data: Data, epsilon: float, iterations: int) -> list[Setting]:
    name = f"{version('ott-jax')} Sinkhorn, default loop"
    distances = _ott_values(epsilon, inner_iterations=10, max_iterations=iterations)
    note = "stops a problem at its default threshold 1e-3: fewer iterations, so values differ"
    return [partial(jax_contender, name, distances, data, tolerance=0.05, note=note)]


def _ott_values(epsilon, **options):
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    solver = Sinkhorn(**options)

    def value(costs):
        return solver(LinearProblem(Geometry(cost_matrix=costs, epsilon=epsilon))).reg_ot_cost

    return lambda x, y: jax.vmap(jax.vmap(value))(all_costs(x, y))


def pot_batch(data: Data, epsilon: float, iterations: int, *, method: str) -> list[Setting]:
    """ot.batch.solve_batch on PyTorch; transposed, since POT updates its first potential first and ours the second."""
    from ot.batch import solve_batch

    def solve(costs):
        options = dict(reg=epsilon, max_iter=iterations, tol=0.0, method=method, reg_type="kl", grad="envelope")
        return solve_batch(costs.transpose(1, 2), **options).value

    name = f"{version('POT')} ot.batch.solve_batch, {method}, PyTorch"
    note = "its value is the primal's, ours the dual's: equal once converged"
    if method == "sinkhorn":
        note += "; not in the log domain, no safety at smaller epsilon"
    return _on_torch_costs(name, solve, data, chunks=(1, 4, 16), tolerance=0.05, note=note)


def geomloss(data: Data, epsilon: float, iterations: int) -> list[Setting]:
    """SamplesLoss on a batch of pairs, its schedule of epsilon cut into as many steps as ours has iterations."""
    from geomloss import SamplesLoss

    diameter, blur = 2.0, math.sqrt(epsilon)  # of unit vectors; epsilon = blur^2
    scaling = (blur / diameter) ** (1 / (iterations - 2))
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=blur, diameter=diameter, scaling=scaling, debias=False, backend="tensorized",
        cost=lambda x, y: (x**2).sum(2)[:, :, None] + (y**2).sum(2)[:, None, :] - 2 * x @ y.transpose(1, 2),
    )  # fmt: skip

    def solve(x, y):
        pairs = len(x) * len(y)
        x_pairs = x[:, None].expand(-1, len(y), -1, -1).reshape(pairs, *x.shape[1:])
        y_pairs = y[None].expand(len(x), -1, -1, -1).reshape(pairs, *y.shape[1:])
        return loss(x_pairs, y_pairs).reshape(len(x), len(y))

    name = f"{version('geomloss')} SamplesLoss, tensorized"
    note = "another algorithm: averaged updates while epsilon falls to its value"
    details = dict(tolerance=0.05, note=note)
    return [
        partial(_torch_contender, f"{name}, {rows} x {len(data.y)} pairs", solve, data, rows, **details)
        for rows in (1, 4)
    ]


def broadcast(data: Data) -> list[Setting]:
    """Interpolate, then the mean of (a - b)^2 by broadcasting: some clips of x at a time, or all at once."""

    def by_rows(size):
        def distances(x, y):
            def row(clip):
                return jnp.sum(jnp.mean((clip[None] - y) ** 2, axis=1), axis=1)

            return jax.lax.map(jax.checkpoint(row), _resample(x, y.shape[1]), batch_size=size)

        return distances

    def at_once(x, y):
        return jnp.sum(jnp.mean((_resample(x, y.shape[1])[:, None] - y[None]) ** 2, axis=2), axis=2)

    count = len(data.x)
    return [
        *(
            partial(jax_contender, f"broadcast, {size} x {count} pairs at a time", by_rows(size), data)
            for size in (1, 4)
        ),
        partial(jax_contender, "broadcast, all at once", at_once, data),
    ]


def one_product(data: Data) -> list[Setting]:
    """Interpolate, then all pairs by one matrix product over the m positions."""

    def distances(x, y):
        m = y.shape[1]
        x, y = (side.reshape(len(side), -1) for side in (_resample(x, m), y))
        products = jnp.matmul(x, y.T, precision="highest")
        return (jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :] - 2 * products) / m

    return [partial(jax_contender, "interpolated to m, one product", distances, data)]


def _resample(x, length):
    weights = interpolation_weights(x.shape[1], length, length, x.shape[1], x.dtype)
    return jnp.einsum("pn,bnd->bpd", weights, x, precision="highest")
