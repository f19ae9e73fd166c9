"""What soft and hard DTW promise beyond the suite: ties, order of the values, bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import X_SHAPE, masks, program
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from scav_jax.distances import pairwise
from scav_jax.shapes import prefix_mask


def test_check_grads(rng, x64):
    x, y = jnp.asarray(rng.normal(size=(2, 3, 2))), jnp.asarray(rng.normal(size=(2, 4, 2)))
    check_grads(jax.jit(lambda x, y: pairwise("dtw", x, y, gamma=0.5)), (x, y), order=1, modes=["rev"])


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("swapped", [False, True], ids=["n < m", "n > m"])
@pytest.mark.parametrize("debiased", [False, True])
def test_tied_paths_send_the_gradient_down_one(debiased, swapped, implementation, rng):
    # Whole numbers to 2: costs are exact, and in many pairs best paths tie.
    x, y = (rng.integers(0, 3, size=(16, length, 1)).astype(np.float32) for length in (5, 8))
    x_lengths, y_lengths = rng.integers(1, 6, size=16), rng.integers(1, 9, size=16)
    weighting = rng.normal(size=(16, 16)).astype(np.float32)
    if swapped:
        x, y, x_lengths, y_lengths = y, x, y_lengths, x_lengths
    options = dict(gamma=0, normalize=False, debiased=debiased)
    expected = oracle.pairwise("dtw", x, y, x_lengths, y_lengths, weighting, **options)
    x_mask, y_mask = (prefix_mask(jnp.array(n), v.shape[1]) for v, n in ((x, x_lengths), (y, y_lengths)))
    actual = program("dtw", implementation=implementation, **options)(x, y, x_mask, y_mask, weighting)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, 1e-5, 1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 4), m=st.integers(1, 6))
def test_order_of_the_values(seed, n, m):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=X_SHAPE).astype(np.float32), rng.normal(size=(3, 6, 3)).astype(np.float32)
    arguments = x, y, *masks([n] * 4, [m] * 3), np.ones((4, 3), np.float32)

    def values(**options):
        return program("dtw", **options)(*arguments)[0]

    soft, hard = values(gamma=0.1), values(gamma=0)
    assert np.all(soft <= hard + 1e-5)
    # Every path visits every row and every column.
    costs = np.sum((x[:, None, :n, None] - y[None, :, None, :m]) ** 2, axis=4)
    bound = np.maximum(costs.min(axis=3).sum(axis=2), costs.min(axis=2).sum(axis=2)) / (n + m)
    assert np.all(hard >= bound * (1 - 1e-5))
    assert np.all(values(gamma=0.1, debiased=True) >= -1e-5)
