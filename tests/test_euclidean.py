"""Interpolated Euclidean distance against loops in float64 and known identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from scav_jax.distances import euclidean, pairwise
from scav_jax.shapes import prefix_mask


def resampled(frames, length):
    """(s, d) -> (length, d), position by position: half-pixel centres, edges clamped."""
    rows = []
    for j in range(length):
        centre = min(max((j + 0.5) * len(frames) / length - 0.5, 0), len(frames) - 1)
        low = int(centre)
        high = min(low + 1, len(frames) - 1)
        rows.append((1 - (centre - low)) * frames[low] + (centre - low) * frames[high])
    return np.array(rows)


def oracle(x, y, resample, squared):
    """One pair, unpadded, in loops."""
    length = {"x_to_y": len(y), "y_to_x": len(x)}.get(resample, resample)
    sq_distances = np.sum((resampled(x, length) - resampled(y, length)) ** 2, axis=1)
    return np.mean(sq_distances if squared else np.sqrt(sq_distances))


@pytest.mark.parametrize("resample", ["x_to_y", "y_to_x", 3])
@pytest.mark.parametrize("squared", [True, False])
def test_matches_loops_and_their_central_differences(resample, squared, rng, x64):
    x, y = rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 4, 2))
    x_lengths, y_lengths = [5, 2], [1, 4]
    x_mask, y_mask = prefix_mask(jnp.array(x_lengths), 5), prefix_mask(jnp.array(y_lengths), 4)

    def expected(x):
        return np.array(
            [
                [oracle(a[:n], b[:m], resample, squared) for b, m in zip(y, y_lengths, strict=True)]
                for a, n in zip(x, x_lengths, strict=True)
            ]
        )

    def total(x):
        values = pairwise("euclidean", x, jnp.asarray(y), x_mask, y_mask, resample=resample, squared=squared)
        return jnp.sum(values), values

    (_, values), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(x))
    np.testing.assert_allclose(values, expected(x), 1e-10)
    for clip, frame in ((0, 0), (0, 4), (1, 1), (1, 3)):  # the last is padding
        step = np.zeros_like(x)
        step[clip, frame, 1] = 1e-5
        difference = (expected(x + step).sum() - expected(x - step).sum()) / 2e-5
        np.testing.assert_allclose(gradient[clip, frame, 1], difference, 1e-6, 1e-8)


@pytest.mark.parametrize(("n", "m"), [(2, 5), (5, 2), (3, 3), (1, 4)])
def test_one_product_matches_loops(n, m, rng, x64):
    x, y = rng.normal(size=(2, n, 3)), rng.normal(size=(3, m, 3))
    for resample in ("x_to_y", "y_to_x", 3, 7):
        expected = [[oracle(a, b, resample, True) for b in y] for a in x]
        values = pairwise("euclidean", jnp.asarray(x), jnp.asarray(y), resample=resample)
        np.testing.assert_allclose(values, expected, 1e-10)


def test_interpolation_weights_by_hand():
    # Two frames onto three positions: centres -1/6 -> 0, 1/2, 7/6 -> 1.
    weights = euclidean.interpolation_weights(2, 3, 3, 2, jnp.float32)
    np.testing.assert_allclose(weights, [[1, 0], [0.5, 0.5], [0, 1]], atol=1e-6)
    # Four onto two, no anti-aliasing: centres 1/2 and 5/2.
    weights = euclidean.interpolation_weights(4, 2, 2, 4, jnp.float32)
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], atol=1e-6)


def test_check_grads(rng, x64):
    x, y = jnp.asarray(rng.normal(size=(2, 3, 2))), jnp.asarray(rng.normal(size=(2, 4, 2)))
    check_grads(jax.jit(lambda x, y: pairwise("euclidean", x, y, squared=False)), (x, y), order=1, modes=["rev"])


unit_euclidean = jax.jit(functools.partial(pairwise, "euclidean", unit_norm=True))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 4), m=st.integers(1, 4))
def test_unit_frames_of_one_length_are_two_minus_two_cosines(seed, n, m):
    frames = np.random.default_rng(seed).normal(size=(2, 4, 3)).astype(np.float32)
    x, y = jnp.asarray(frames[:1]), jnp.asarray(frames[1:])
    length = min(n, m)
    mask = prefix_mask(jnp.array([length]), 4)
    unit = frames / np.linalg.norm(frames, axis=2, keepdims=True)
    mean_cosine = np.mean(np.sum(unit[0, :length] * unit[1, :length], axis=1))
    value = unit_euclidean(x, y, mask, mask)
    np.testing.assert_allclose(value[0, 0], 2 - 2 * mean_cosine, 1e-4, 1e-5)
