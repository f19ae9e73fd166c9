"""The four distances in plain PyTorch, as their papers write them: (Bx, n, d), (By, m, d) -> (Bx, By).

Nothing here is fast. x_length and y_length hold the clips' valid lengths, None where all are full.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def distance(name, x, y, x_length=None, y_length=None, *, unit_norm=False, **options) -> Tensor:
    """All pairs (Bx, By) by the distance of that name; `options` are those of its function here."""
    if x_length is None:
        x_length = torch.full((len(x),), x.shape[1])
    if y_length is None:
        y_length = torch.full((len(y),), y.shape[1])
    if unit_norm:
        x, y = unit(x), unit(y)
    return {"cosine": cosine, "euclidean": euclidean, "dtw": dtw, "wasserstein": wasserstein}[name](
        x, y, x_length, y_length, **options
    )


def unit(vectors: Tensor) -> Tensor:
    """Of norm 1; a zero stays zero."""
    return F.normalize(vectors, dim=-1, eps=1e-30)


def cosine(x, y, x_length, y_length) -> Tensor:
    """1 - the cosine of the means over time."""
    x_mean = torch.stack([clip[:length].mean(0) for clip, length in zip(x, x_length, strict=True)])
    y_mean = torch.stack([clip[:length].mean(0) for clip, length in zip(y, y_length, strict=True)])
    return 1 - unit(x_mean) @ unit(y_mean).T


def resample(frames: Tensor, length: int, align_corners: bool = False) -> Tensor:
    """(n, d) -> (length, d), linear."""
    return F.interpolate(frames.T[None], size=int(length), mode="linear", align_corners=align_corners)[0].T


def euclidean(x, y, x_length, y_length, resample_to="x_to_y", squared=True, align_corners=False) -> Tensor:
    """Each x resampled to the length of each y, y to x's, or both to a number; mean over positions."""
    rows = []
    for x_clip, n in zip(x, x_length, strict=True):
        resampled = {}  # by length: clips are often as long as each other
        row = []
        for y_clip, m in zip(y, y_length, strict=True):
            length = {"x_to_y": int(m), "y_to_x": int(n)}.get(resample_to, resample_to)
            if length not in resampled:
                resampled[length] = resample(x_clip[:n], length, align_corners)
            difference = resampled[length] - resample(y_clip[:m], length, align_corners)
            sq_distances = (difference**2).sum(-1)
            row.append((sq_distances if squared else sq_distances.sqrt()).mean())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def ground_cost(x: Tensor, y: Tensor, cost: str) -> Tensor:
    """(P, n, d), (P, m, d) -> (P, n, m)."""
    if cost == "cosine":
        return 1 - unit(x) @ unit(y).transpose(1, 2)
    sq_costs = (x**2).sum(-1)[:, :, None] + (y**2).sum(-1)[:, None, :] - 2 * x @ y.transpose(1, 2)
    return sq_costs if cost == "sqeuclidean" else sq_costs.clamp(min=1e-30).sqrt()


def all_pairs(x, y, x_length, y_length):
    """Every clip of x beside every clip of y: P = Bx By of each."""
    return (
        x.repeat_interleave(len(y), 0),
        y.repeat(len(x), 1, 1),
        x_length.repeat_interleave(len(y)),
        y_length.repeat(len(x)),
    )


def dtw(x, y, x_length, y_length, gamma=0.1, cost="sqeuclidean", normalize=True, debiased=False) -> Tensor:
    """Soft-DTW; at gamma = 0 DTW; divided by n + m with `normalize`, less both self-distances with `debiased`."""

    def of(x, y, n, m):
        return soft_dtw(ground_cost(x, y, cost), n, m, gamma)

    values = of(*all_pairs(x, y, x_length, y_length)).reshape(len(x), len(y))
    if debiased:
        x_self, y_self = of(x, x, x_length, x_length), of(y, y, y_length, y_length)
        values = values - (x_self[:, None] + y_self[None, :]) / 2
    return values / (x_length[:, None] + y_length[None, :]) if normalize else values


def soft_dtw(costs: Tensor, n: Tensor, m: Tensor, gamma: float) -> Tensor:
    """Cuturi and Blondel, algorithm 1, on P tables at once; read at (n, m) of each."""
    pairs, rows, columns = costs.shape
    cells = [row.unbind(1) for row in costs.unbind(1)]  # not by index: each would have a gradient of the whole
    infinite = costs.new_full((pairs,), torch.inf)
    table = {(i, 0): infinite for i in range(rows + 1)} | {(0, j): infinite for j in range(columns + 1)}
    table[0, 0] = costs.new_zeros(pairs)
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            before = torch.stack([table[i - 1, j - 1], table[i - 1, j], table[i, j - 1]])
            least = before.min(0).values if gamma == 0 else -gamma * torch.logsumexp(-before / gamma, 0)
            table[i, j] = cells[i - 1][j - 1] + least
    return torch.stack([table[int(n[p]), int(m[p])][p] for p in range(pairs)])


def wasserstein(
    x, y, x_length, y_length, epsilon=0.1, num_iterations=100, cost="sqeuclidean", position_weight=0.0, debiased=False
) -> Tensor:
    """The dual of entropic transport after `num_iterations`; less both self-distances with `debiased`."""
    x, y = with_position(x, x_length, position_weight), with_position(y, y_length, position_weight)

    def of(x, y, n, m):
        return sinkhorn(ground_cost(x, y, cost), n, m, epsilon, num_iterations)

    values = of(*all_pairs(x, y, x_length, y_length)).reshape(len(x), len(y))
    if debiased:
        x_self, y_self = of(x, x, x_length, x_length), of(y, y, y_length, y_length)
        values = values - (x_self[:, None] + y_self[None, :]) / 2
    return values


def with_position(frames: Tensor, lengths: Tensor, weight: float) -> Tensor:
    """One coordinate more: where in the clip, 0 to 1, times the weight."""
    if weight == 0:
        return frames
    middle = torch.arange(frames.shape[1], dtype=frames.dtype) + 0.5
    position = weight * middle[None, :] / lengths[:, None].to(frames.dtype)
    return torch.cat([frames, position[:, :, None]], dim=-1)


def sinkhorn(costs: Tensor, n: Tensor, m: Tensor, epsilon: float, num_iterations: int) -> Tensor:
    """Log-domain Sinkhorn between uniform weights, y's potential first; the gradient holds the last plan fixed."""
    pairs, rows, columns = costs.shape
    x_valid = torch.arange(rows)[None, :] < n[:, None]
    y_valid = torch.arange(columns)[None, :] < m[:, None]
    log_a = torch.where(x_valid, -n.to(costs.dtype).log()[:, None], -torch.inf)
    log_b = torch.where(y_valid, -m.to(costs.dtype).log()[:, None], -torch.inf)
    with torch.no_grad():
        f, g = costs.new_zeros(pairs, rows), costs.new_zeros(pairs, columns)
        for _ in range(num_iterations):
            g = -epsilon * torch.logsumexp((f[:, :, None] - costs) / epsilon + log_a[:, :, None], dim=1)
            f = -epsilon * torch.logsumexp((g[:, None, :] - costs) / epsilon + log_b[:, None, :], dim=2)
        plan = ((f[:, :, None] + g[:, None, :] - costs) / epsilon + log_a[:, :, None] + log_b[:, None, :]).exp()
        dual = (f * log_a.exp()).sum(1) + (g * log_b.exp()).sum(1)
    transported = (plan * costs).sum((1, 2))
    return dual + transported - transported.detach()
