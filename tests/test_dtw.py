"""Soft and hard DTW against an enumeration of all monotone paths, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from scav_jax.distances import dtw, pairwise
from scav_jax.shapes import prefix_mask


def path_costs(costs):
    """Cost of every monotone path from the first cell to the last: the definition, with no recursion over minima."""
    n, m = costs.shape

    def continued(i, j):
        if (i, j) == (n - 1, m - 1):
            return [costs[i, j]]
        ends = [(a, b) for a, b in ((i + 1, j), (i, j + 1), (i + 1, j + 1)) if a < n and b < m]
        return [costs[i, j] + rest for end in ends for rest in continued(*end)]

    return np.array(continued(0, 0))


def oracle(x, y, gamma, cost="sqeuclidean"):
    """One unpadded pair, unnormalised."""
    differences = np.sum((x[:, None] - y[None]) ** 2, axis=2)
    if cost == "cosine":
        x_unit, y_unit = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        costs = 1 - x_unit @ y_unit.T
    else:
        costs = differences if cost == "sqeuclidean" else np.sqrt(differences)
    totals = path_costs(costs)
    least = totals.min()
    return least if gamma == 0 else least - gamma * np.log(np.sum(np.exp((least - totals) / gamma)))


@pytest.mark.parametrize(
    ("gamma", "cost", "debiased"),
    [(0.1, "sqeuclidean", False), (1.0, "euclidean", True), (10.0, "cosine", False), (0, "sqeuclidean", False)],
)
def test_matches_all_paths_and_their_central_differences(gamma, cost, debiased, rng, x64):
    x, y = rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 4, 2))
    x_lengths, y_lengths = [5, 2], [1, 4]
    x_mask, y_mask = prefix_mask(jnp.array(x_lengths), 5), prefix_mask(jnp.array(y_lengths), 4)

    def expected_pair(a, b):
        value = oracle(a, b, gamma, cost)
        if debiased:
            value -= (oracle(a, a, gamma, cost) + oracle(b, b, gamma, cost)) / 2
        return value / (len(a) + len(b))

    def expected(x):
        return np.array(
            [
                [expected_pair(a[:n], b[:m]) for b, m in zip(y, y_lengths, strict=True)]
                for a, n in zip(x, x_lengths, strict=True)
            ]
        )

    def total(x):
        values = pairwise("dtw", x, jnp.asarray(y), x_mask, y_mask, gamma=gamma, cost=cost, debiased=debiased)
        return jnp.sum(values), values

    (_, values), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(x))
    np.testing.assert_allclose(values, expected(x), 1e-9, 1e-12)
    for clip, frame in ((0, 0), (0, 4), (1, 1), (1, 3)):  # the last is padding
        step = np.zeros_like(x)
        step[clip, frame, 1] = 1e-5
        difference = (expected(x + step).sum() - expected(x - step).sum()) / 2e-5
        np.testing.assert_allclose(gradient[clip, frame, 1], difference, 1e-5, 1e-8)


def test_check_grads(rng, x64):
    x, y = jnp.asarray(rng.normal(size=(2, 3, 2))), jnp.asarray(rng.normal(size=(2, 4, 2)))
    check_grads(jax.jit(lambda x, y: pairwise("dtw", x, y, gamma=0.5)), (x, y), order=1, modes=["rev"])


@pytest.mark.parametrize("gamma", [1e-3, 1e-2, 0.1, 10.0])
def test_float32_keeps_its_digits_on_long_clips(gamma, rng):
    x, y = (rng.normal(size=(2, length, 4)).astype(np.float32) for length in (32, 48))

    def value_and_gradient(x, y):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(pairwise("dtw", x, y, gamma=gamma, unit_norm=True))))(x)

    value, gradient = value_and_gradient(jnp.asarray(x), jnp.asarray(y))
    jax.config.update("jax_enable_x64", True)
    try:
        exact, exact_gradient = value_and_gradient(jnp.asarray(x, jnp.float64), jnp.asarray(y, jnp.float64))
    finally:
        jax.config.update("jax_enable_x64", False)
    np.testing.assert_allclose(value, exact, 1e-5)
    error = np.linalg.norm(np.asarray(gradient) - np.asarray(exact_gradient)) / np.linalg.norm(exact_gradient)
    assert error < 3e-4


def test_a_tie_of_hard_dtw_goes_by_the_diagonal():
    value, weights = dtw._softmin(jnp.array(1.0), jnp.array(1.0), jnp.array(2.0), 0)
    assert float(value) == 1
    assert [float(w) for w in weights] == [1, 0, 0]


def compiled(**options):
    return jax.jit(functools.partial(pairwise, "dtw", **options))


soft_dtw, hard_dtw, soft_divergence = compiled(gamma=0.5), compiled(gamma=0), compiled(gamma=0.5, debiased=True)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 4), m=st.integers(1, 4))
def test_order_of_the_sequences_and_of_the_values(seed, n, m):
    frames = np.random.default_rng(seed).normal(size=(2, 4, 3)).astype(np.float32)
    x, y = jnp.asarray(frames[:1]), jnp.asarray(frames[1:])
    x_mask, y_mask = prefix_mask(jnp.array([n]), 4), prefix_mask(jnp.array([m]), 4)
    soft = soft_dtw(x, y, x_mask, y_mask)
    hard = hard_dtw(x, y, x_mask, y_mask)
    np.testing.assert_allclose(soft, soft_dtw(y, x, y_mask, x_mask), 1e-4, 1e-5)
    assert soft[0, 0] <= hard[0, 0] + 1e-5
    # Every path visits every row and every column.
    costs = np.sum((frames[0, :n, None] - frames[1, None, :m]) ** 2, axis=2)
    bound = max(costs.min(axis=1).sum(), costs.min(axis=0).sum()) / (n + m)
    assert hard[0, 0] >= bound * (1 - 1e-5)
    divergence = soft_divergence(x, y, x_mask, y_mask)
    assert divergence[0, 0] >= -1e-5
