"""The oracle itself, where it could be wrong: soft-DTW against all paths, gradients against central differences."""

import numpy as np
import oracle
import pytest


def path_costs(costs):
    """Cost of every monotone path from the first cell to the last: the definition, with no recursion over minima."""
    n, m = costs.shape

    def continued(i, j):
        if (i, j) == (n - 1, m - 1):
            return [costs[i, j]]
        ends = [(a, b) for a, b in ((i + 1, j), (i, j + 1), (i + 1, j + 1)) if a < n and b < m]
        return [costs[i, j] + rest for end in ends for rest in continued(*end)]

    return np.array(continued(0, 0))


@pytest.mark.parametrize("gamma", [0, 1e-2, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (5, 4)])
def test_soft_dtw_sums_over_all_paths(gamma, shape, rng):
    costs = rng.uniform(0, 3, size=shape)
    totals = path_costs(costs)
    least = totals.min()
    value = least if gamma == 0 else least - gamma * np.log(np.sum(np.exp((least - totals) / gamma)))
    np.testing.assert_allclose(oracle.soft_dtw(costs, gamma)[0], value, 1e-12)


def central_differences(function, array, step=1e-5):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        change = np.zeros_like(array)
        change[index] = step
        gradient[index] = (function(array + change) - function(array - change)) / (2 * step)
    return gradient


@pytest.mark.parametrize("gamma", [0, 0.1, 1.0, 10.0])
def test_expected_alignment_is_the_gradient_in_the_costs(gamma, rng):
    costs = rng.uniform(0, 3, size=(3, 4))
    expected = central_differences(lambda costs: oracle.soft_dtw(costs, gamma)[0], costs)
    np.testing.assert_allclose(oracle.soft_dtw(costs, gamma)[1], expected, 1e-6, 1e-8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("euclidean", {}),
        ("euclidean", {"resample": "y_to_x", "squared": False, "unit_norm": True}),
        ("euclidean", {"resample": 7, "squared": False}),
        ("dtw", {"unit_norm": True}),
        ("dtw", {"gamma": 1.0, "cost": "euclidean", "debiased": True}),
        ("dtw", {"gamma": 0, "cost": "cosine", "normalize": False}),
        # Converged, where the plan held fixed is the whole gradient.
        ("wasserstein", {"epsilon": 2.0, "num_iterations": 60, "position_weight": 1.0}),
        ("wasserstein", {"epsilon": 2.0, "num_iterations": 60, "cost": "cosine", "debiased": True}),
        ("cosine", {"unit_norm": True}),
    ],
)
def test_gradients_are_central_differences(name, options, rng):
    x, y = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    _, x_gradient, y_gradient = oracle.distance(name, x, y, **options)
    x_expected = central_differences(lambda x: oracle.distance(name, x, y, **options)[0], x)
    y_expected = central_differences(lambda y: oracle.distance(name, x, y, **options)[0], y)
    np.testing.assert_allclose(x_gradient, x_expected, 1e-5, 1e-7)
    np.testing.assert_allclose(y_gradient, y_expected, 1e-5, 1e-7)


def test_resampling_by_hand():
    # Two frames onto three positions: centres -1/6 -> 0, 1/2, 7/6 -> 1.
    np.testing.assert_allclose(oracle.resampling(2, 3), [[1, 0], [0.5, 0.5], [0, 1]], atol=1e-15)
    # Four onto two, no anti-aliasing: centres 1/2 and 5/2.
    np.testing.assert_allclose(oracle.resampling(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], atol=1e-15)
    np.testing.assert_allclose(oracle.resampling(1, 2), [[1], [1]])
