"""Distances of all pairs by public PyTorch packages, as each one's documentation says and with gradients.

A package that is not installed raises ModuleNotFoundError when asked for.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import Contender, Data, Result
from benchmarks.peers import Setting, version


class Part(NamedTuple):
    """distances: tensors (r, n, d), (B, m, d) -> (r, B), differentiable; rows: clips of x at a time that were tried.

    tolerance, note: as a `Contender` has them.
    """

    name: str
    distances: Callable[[Any, Any], Any]
    rows: tuple[int, ...]
    tolerance: float = 1e-3
    note: str = ""


def settings(part: Part, data: Data) -> list[Setting]:
    return [partial(_contender, part, data, rows) for rows in part.rows]


def _contender(part, data, rows):
    """Gradients are summed up over the rows."""
    import torch

    x, y = (torch.tensor(np.asarray(side), requires_grad=True) for side in (data.x, data.y))
    weights = torch.tensor(np.asarray(data.weights))

    def run():
        x.grad = y.grad = None
        values = []
        for start in range(0, len(x), rows):
            some = part.distances(x[start : start + rows], y)
            (some * weights[start : start + rows]).sum().backward()
            values.append(some.detach())
        return Result(torch.cat(values), x.grad, y.grad)

    return Contender(f"{part.name}, {rows} x {len(y)} pairs", run, tolerance=part.tolerance, note=part.note)


def tslearn(gamma: float) -> Part:
    """SoftDTWLossPyTorch, whose compiled recursions run forward and backward."""
    from tslearn.metrics import SoftDTWLossPyTorch

    loss = SoftDTWLossPyTorch(gamma=gamma, dist_func=lambda costs, _: costs.clone())
    return Part(f"{version('tslearn')} SoftDTWLossPyTorch", _on_costs(_shaped(loss)), (16, 64))


def pysdtw(gamma: float) -> Part:
    from pysdtw import SoftDTW

    loss = SoftDTW(gamma=gamma, use_cuda=False, dist_func=lambda costs, _: costs)
    return Part(f"{version('pysdtw')} SoftDTW, CPU", _on_costs(_shaped(loss)), (4, 16, 64))


def pot(epsilon: float, iterations: int, *, method: str) -> Part:
    """ot.batch.solve_batch; transposed, since POT updates its first potential first and ours the second."""
    from ot.batch import solve_batch

    def solve(costs):
        options = dict(reg=epsilon, max_iter=iterations, tol=0.0, method=method, reg_type="kl", grad="envelope")
        return solve_batch(costs.transpose(1, 2), **options).value

    note = "its value is the primal's, ours the dual's: equal once converged"
    if method == "sinkhorn":
        note += "; not in the log domain, no safety at smaller epsilon"
    return Part(f"{version('POT')} ot.batch.solve_batch, {method}, PyTorch", _on_costs(solve), (1, 4, 16), 0.05, note)


def geomloss(epsilon: float, iterations: int) -> Part:
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

    note = "another algorithm: averaged updates while epsilon falls to its value"
    return Part(f"{version('geomloss')} SamplesLoss, tensorized", solve, (1, 4), 0.05, note)


def euclidean() -> Part:
    """Interpolated to y's length, then one einsum."""
    import torch

    def distances(x, y):
        m = y.shape[1]
        x = torch.nn.functional.interpolate(x.transpose(1, 2), size=m, mode="linear").transpose(1, 2)
        products = torch.einsum("imd,jmd->ij", x, y)
        return ((x**2).sum((1, 2))[:, None] + (y**2).sum((1, 2))[None, :] - 2 * products) / m

    return Part(f"{version('torch')} interpolate and one einsum", distances, (64, 1024))


def cosine() -> Part:
    from torch.nn.functional import normalize

    def distances(x, y):
        return 1 - normalize(x.mean(1), dim=1) @ normalize(y.mean(1), dim=1).T

    return Part(f"{version('torch')} means and one product", distances, (1024,))


def _shaped(loss):
    """A loss of (P, n, d) and (P, m, d), given costs (P, n, m) as its first argument: the second has the shape only."""
    return lambda costs: loss(costs, costs.new_zeros(1, 1, 1).expand(len(costs), costs.shape[2], costs.shape[2]))


def _on_costs(solve: Callable) -> Callable:
    """solve(costs (P, n, m)) -> (P,), on costs by one product."""

    def distances(x, y):
        products = (x.flatten(0, 1) @ y.flatten(0, 1).T).reshape(*x.shape[:2], *y.shape[:2]).transpose(1, 2)
        costs = (x**2).sum(2)[:, None, :, None] + (y**2).sum(2)[None, :, None, :] - 2 * products
        return solve(costs.flatten(0, 1)).reshape(len(x), len(y))

    return distances
