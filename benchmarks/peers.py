"""What a user would take instead, each as its own documentation says and at its fastest settings.

All get the same clips and give all pairs. A peer that is not installed raises ModuleNotFoundError when asked for.
Left out: tslearn's PyTorch backend of cdist_soft_dtw, a hundred times slower than its compiled one.
"""

import importlib.metadata
from collections.abc import Callable
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
