"""The contrastive loss against loops, its gradient, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

from scav_jax.losses import check_normalization, contrastive_loss, normalize

NORMALIZE = {
    "none": lambda row: row,
    "zscore": lambda row: (row - row.mean()) / np.sqrt(row.var() + 1e-6),
    "mean": lambda row: row / row.mean(),
    "minmax": lambda row: (row - row.min()) / (row.max() - row.min()),
}


def oracle(distances, temperature, normalization):
    terms = []
    for matrix in (distances, distances.T):
        for i, row in enumerate(matrix):
            logits = -NORMALIZE[normalization](row) / temperature
            terms.append(-np.log(np.exp(logits[i]) / np.sum(np.exp(logits))))
    return np.mean(terms)


@pytest.mark.parametrize("normalization", NORMALIZE)
def test_matches_loops_and_its_gradients(normalization, rng, x64):
    # No two so close that a numerical difference would swap the least or the greatest of a row.
    distances = 0.5 + (rng.permutation(25).reshape(5, 5) + rng.uniform(0, 0.5, size=(5, 5))) / 10
    loss = jax.jit(lambda d, t: contrastive_loss(d, t, normalization=normalization))
    for temperature in (0.07, 1.0):
        value = loss(jnp.asarray(distances), jnp.asarray(temperature))
        np.testing.assert_allclose(value, oracle(distances, temperature, normalization), 1e-10)
        assert value.shape == ()
    check_grads(loss, (jnp.asarray(distances), jnp.asarray(0.7)), order=1, modes=["rev"])
    gradient = jax.grad(loss)(jnp.asarray(distances), jnp.asarray(1.0))
    step = np.zeros_like(distances)
    step[1, 3] = 1e-6
    difference = oracle(distances + step, 1.0, normalization) - oracle(distances - step, 1.0, normalization)
    np.testing.assert_allclose(gradient[1, 3], difference / 2e-6, 1e-5, 1e-8)


def test_zscore_is_the_default_and_ignores_scale_and_offset(rng):
    distances = jnp.asarray(rng.uniform(0.5, 3, size=(6, 6)), jnp.float32)
    expected = contrastive_loss(distances, 1.0, normalization="zscore")
    np.testing.assert_allclose(contrastive_loss(distances, 1.0), expected)
    np.testing.assert_allclose(contrastive_loss(7 * distances + 3, 1.0), expected, 1e-4)


def value_and_gradient(normalization):
    return jax.jit(jax.value_and_grad(functools.partial(contrastive_loss, normalization=normalization)))


def test_known_values():
    # Equal distances: a uniform softmax, ln N. Minmax at its best: positives 0, negatives 1 (ln(1 + (N - 1) / e)).
    for normalization in NORMALIZE:
        value, gradient = value_and_gradient(normalization)(jnp.ones((4, 4)), 1.0)
        np.testing.assert_allclose(value, np.log(4), 1e-6)
        assert np.isfinite(gradient).all()
    value = contrastive_loss(1 - jnp.eye(32), 1.0, normalization="minmax")
    np.testing.assert_allclose(value, np.log(1 + 31 / np.e), 1e-6)


@pytest.mark.parametrize("normalization", NORMALIZE)
def test_all_zero_distances_have_finite_gradients(normalization):
    value, gradient = value_and_gradient(normalization)(jnp.zeros((3, 3)), 1.0)
    np.testing.assert_allclose(value, np.log(3), 1e-6)
    assert np.isfinite(gradient).all()


def test_mean_refuses_negative_distances():
    negative = jnp.array([[-0.1, 1.0], [1.0, 0.2]])
    with pytest.raises(ValueError, match='none below 0 for normalization="mean"'):
        contrastive_loss(negative, 1.0, normalization="mean")
    assert np.isnan(jax.jit(lambda d: contrastive_loss(d, 1.0, normalization="mean"))(negative))
    rounding = jnp.array([[-1e-7, 1.0], [1.0, 0.2]])
    assert np.isfinite(contrastive_loss(rounding, 1.0, normalization="mean"))


def test_check_normalization_refuses_before_any_batch():
    with pytest.raises(ValueError, match="dtw"):
        check_normalization("mean", "dtw", gamma=0.1)
    check_normalization("mean", "dtw", gamma=0.1, debiased=True)
    check_normalization("mean", "euclidean")
    check_normalization("zscore", "dtw", gamma=0.1)


def test_bad_input_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without shape types
    with pytest.raises(ValueError, match="normalization: expected one of"):
        contrastive_loss(jnp.eye(2), 1.0, normalization="softmax")
    with pytest.raises(ValueError, match="square"):
        contrastive_loss(jnp.ones((2, 3)), 1.0)
    with pytest.raises(ValueError, match="temperature"):
        contrastive_loss(jnp.eye(2), 0.0)
    with pytest.raises(ValueError, match="normalization"):
        normalize(jnp.eye(2), "max")
