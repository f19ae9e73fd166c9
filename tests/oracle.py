"""The distances of one unpadded pair by their definitions, values and gradients: float64, plain loops, no JAX.

x is (n, d) and y (m, d). Defaults are those of the documentation, written out once more.
"""

import math

import numpy as np

INF = math.inf


def distance(name, x, y, unit_norm=False, **options):
    """(value, gradient in x, gradient in y)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    function = {"euclidean": euclidean, "dtw": dtw, "wasserstein": wasserstein, "cosine": cosine}[name]
    if not unit_norm:
        return function(x, y, **options)
    value, x_gradient, y_gradient = function(unit(x), unit(y), **options)
    return value, unit_vjp(x, x_gradient), unit_vjp(y, y_gradient)


def pairwise(name, x, y, x_lengths, y_lengths, weighting=None, **options):
    """All pairs of padded clips: values, and the gradients of sum(weighting * values)."""
    values = np.zeros((len(x), len(y)))
    weighting = np.ones_like(values) if weighting is None else weighting
    x_gradient, y_gradient = np.zeros(x.shape), np.zeros(y.shape)
    for i, n in enumerate(x_lengths):
        for j, m in enumerate(y_lengths):
            values[i, j], of_x, of_y = distance(name, x[i, :n], y[j, :m], **options)
            x_gradient[i, :n] += weighting[i, j] * of_x
            y_gradient[j, :m] += weighting[i, j] * of_y
    return values, x_gradient, y_gradient


def alignment(name, x, y, unit_norm=False, **options):
    """(n, m): how much of each frame of x meets each step of y."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = (unit(x), unit(y)) if unit_norm else (x, y)
    n, m = len(x), len(y)
    if name == "euclidean":
        length = {"x_to_y": m, "y_to_x": n}.get(options.get("resample", "x_to_y"), options.get("resample"))
        return resampling(n, length).T @ resampling(m, length)
    if name == "dtw":
        return soft_dtw(ground_costs(x, y, options.get("cost", "sqeuclidean")), options.get("gamma", 0.1))[1]
    if name == "wasserstein":
        x, y = (append_position(v, options.get("position_weight", 0)) for v in (x, y))
        costs = ground_costs(x, y, options.get("cost", "sqeuclidean"))
        return sinkhorn(costs, options.get("epsilon", 0.1), options.get("num_iterations", 100))[1]
    return np.full((n, m), 1 / (n * m))


def unit(vectors):
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def unit_vjp(vectors, cotangent):
    norms, directions = np.linalg.norm(vectors, axis=-1, keepdims=True), unit(vectors)
    across = cotangent - directions * np.sum(directions * cotangent, axis=-1, keepdims=True)
    return np.where(norms > 0, across / np.where(norms > 0, norms, 1), 0)


def ground_costs(x, y, cost):
    if cost == "cosine":
        return 1 - unit(x) @ unit(y).T
    sq_costs = np.array([[np.sum((a - b) ** 2) for b in y] for a in x])
    return sq_costs if cost == "sqeuclidean" else np.sqrt(sq_costs)


def ground_costs_vjp(x, y, cost, cotangent):
    """Gradients in x and y of sum(cotangent * ground_costs(x, y, cost))."""
    if cost == "cosine":
        return unit_vjp(x, -cotangent @ unit(y)), unit_vjp(y, -cotangent.T @ unit(x))
    differences = x[:, None] - y[None]
    slopes = 2 * differences if cost == "sqeuclidean" else unit(differences)  # unit: 0 where the frames meet
    return np.einsum("ij,ijd->id", cotangent, slopes), -np.einsum("ij,ijd->jd", cotangent, slopes)


def resampling(source, target):
    """(target, source) weights: linear interpolation at half-pixel centres, edges clamped."""
    weights = np.zeros((target, source))
    for j in range(target):
        centre = min(max((j + 0.5) * source / target - 0.5, 0), source - 1)
        low = min(int(centre), max(source - 2, 0))
        weights[j, low] = 1 - (centre - low)
        if source > 1:
            weights[j, low + 1] = centre - low
    return weights


def euclidean(x, y, resample="x_to_y", squared=True):
    length = {"x_to_y": len(y), "y_to_x": len(x)}.get(resample, resample)
    x_weights, y_weights = resampling(len(x), length), resampling(len(y), length)
    differences = x_weights @ x - y_weights @ y
    sq_distances = np.sum(differences**2, axis=1)
    slopes = (2 * differences if squared else unit(differences)) / length
    value = np.mean(sq_distances if squared else np.sqrt(sq_distances))
    return value, x_weights.T @ slopes, -y_weights.T @ slopes


def soft_dtw(costs, gamma):
    """Value and expected alignment: Cuturi and Blondel's two algorithms; at gamma 0 the best path, diagonal first."""
    n, m = costs.shape
    costs = np.pad(costs, ((1, 1), (1, 1))).tolist()
    table = [[INF] * (m + 2) for _ in range(n + 2)]
    table[0][0] = 0.0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            table[i][j] = costs[i][j] + softmin(table[i - 1][j - 1], table[i - 1][j], table[i][j - 1], gamma)
    value = table[n][m]
    if gamma == 0:
        return value, best_path(table, n, m)
    expected = np.zeros((n + 2, m + 2)).tolist()
    expected[n + 1][m + 1], table[n + 1][m + 1] = 1.0, value
    for i in range(n, 0, -1):
        for j in range(m, 0, -1):
            for a, b in ((i + 1, j), (i, j + 1), (i + 1, j + 1)):
                if expected[a][b] > 0:
                    coming_from_here = math.exp((table[a][b] - table[i][j] - costs[a][b]) / gamma)
                    expected[i][j] += expected[a][b] * coming_from_here
    return value, np.array(expected)[1:-1, 1:-1]


def softmin(diagonal, up, left, gamma):
    least = min(diagonal, up, left)
    if gamma == 0 or least == INF:
        return least
    return least - gamma * math.log(sum(math.exp((least - v) / gamma) for v in (diagonal, up, left)))


def best_path(table, i, j):
    path = np.zeros((i, j))
    while i > 0:
        path[i - 1, j - 1] = 1
        before = (i - 1, j - 1), (i - 1, j), (i, j - 1)
        i, j = min(before, key=lambda cell: table[cell[0]][cell[1]])
    return path


def dtw(x, y, gamma=0.1, cost="sqeuclidean", normalize=True, debiased=False):
    def of(x, y):
        value, expected = soft_dtw(ground_costs(x, y, cost), gamma)
        return value, *ground_costs_vjp(x, y, cost, expected)

    return combined(of, x, y, debiased, len(x) + len(y) if normalize else 1)


def sinkhorn(costs, epsilon, num_iterations):
    """Dual value and plan after so many updates of g, then f, from zero, in the log domain."""
    n, m = costs.shape
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(num_iterations):
        g = -epsilon * log_mean_exp((f[:, None] - costs) / epsilon, axis=0)
        f = -epsilon * log_mean_exp((g[None, :] - costs) / epsilon, axis=1)
    plan = np.exp((f[:, None] + g[None, :] - costs) / epsilon) / (n * m)
    return np.mean(f) + np.mean(g), plan


def log_mean_exp(values, axis):
    largest = np.max(values, axis=axis, keepdims=True)
    return np.log(np.mean(np.exp(values - largest), axis=axis)) + np.squeeze(largest, axis)


def append_position(frames, weight):
    return np.c_[frames, weight * (np.arange(len(frames)) + 0.5) / len(frames)] if weight else frames


def wasserstein(
    x, y, epsilon=0.1, num_iterations=100, cost="sqeuclidean", position_weight=0.0, debiased=False, solver="own"
):
    """Gradients hold the last plan fixed; both solvers are to give this."""
    d = x.shape[1]

    def of(x, y):
        value, plan = sinkhorn(ground_costs(x, y, cost), epsilon, num_iterations)
        return value, *(gradient[:, :d] for gradient in ground_costs_vjp(x, y, cost, plan))

    return combined(of, append_position(x, position_weight), append_position(y, position_weight), debiased, 1)


def combined(of, x, y, debiased, length):
    """d(x, y), or d(x, y) - (d(x, x) + d(y, y)) / 2, divided by `length`."""
    value, x_gradient, y_gradient = of(x, y)
    if debiased:
        (x_self, *x_slopes), (y_self, *y_slopes) = of(x, x), of(y, y)
        value -= (x_self + y_self) / 2
        x_gradient, y_gradient = x_gradient - sum(x_slopes) / 2, y_gradient - sum(y_slopes) / 2
    return value / length, x_gradient / length, y_gradient / length


def cosine(x, y):
    x_mean, y_mean = np.mean(x, axis=0), np.mean(y, axis=0)
    x_unit, y_unit = unit(x_mean), unit(y_mean)
    x_gradient, y_gradient = unit_vjp(x_mean, -y_unit) / len(x), unit_vjp(y_mean, -x_unit) / len(y)
    return 1 - x_unit @ y_unit, np.tile(x_gradient, (len(x), 1)), np.tile(y_gradient, (len(y), 1))
