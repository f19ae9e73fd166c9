"""How many digits float32 keeps, against the oracle in float64, in programs compiled as users compile them."""

import functools

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import optimized_jit, program, relative_error, value_and_gradients

from scav_jax import distances
from scav_jax.shapes import prefix_mask

LENGTHS = [1, 2, 31, 128]
FLOAT32_EPSILON = 2.0**-23


def opposite_frames(length, dtype=np.float32):
    """x and y (4, length, 16): unit frames, x and y far apart, so that padding, zeros, is closer than any frame.

    Rounded to float32, so that all precisions see the same costs; and the same draw in every run, because how near
    float32's rounding comes to a limit is a matter of the draw.
    """
    away, rng = 4 * np.eye(16)[0], np.random.default_rng(1)
    x, y = (oracle.unit(rng.normal(size=(4, length, 16)) + side * away).astype(np.float32) for side in (1, -1))
    return x.astype(dtype), y.astype(dtype)


@functools.cache
def exact_pairs(gamma):
    """The oracle's value and gradients for every pair of lengths."""
    x, y = opposite_frames(LENGTHS[-1])
    return {
        (n, m): oracle.distance("dtw", x[i, :n], y[j, :m], gamma=gamma, normalize=False)
        for i, n in enumerate(LENGTHS)
        for j, m in enumerate(LENGTHS)
    }


def each_pair(gamma, dtype=np.float32):
    """(actual, expected) of value and gradients of every pair of lengths, padding cut off."""
    x, y = opposite_frames(LENGTHS[-1], dtype)
    run = optimized_jit(value_and_gradients("dtw", gamma=gamma, normalize=False))
    mask = prefix_mask(jnp.array(LENGTHS), LENGTHS[-1])
    for i, n in enumerate(LENGTHS):
        for j, m in enumerate(LENGTHS):
            weighting = np.zeros((len(LENGTHS), len(LENGTHS)), x.dtype)
            weighting[i, j] = 1
            values, x_gradient, y_gradient = run(x, y, mask, mask, weighting)
            actual = values[i, j], x_gradient[i, :n], y_gradient[j, :m]
            yield actual, exact_pairs(gamma)[n, m]


def soft_dtw_limit(gamma, value):
    """1e-4 where the gradient is well posed in float32, and what float32 can tell where gamma comes near its rounding.

    A path of cost R is known to about R epsilon, so that its probability, a multiple of exp(-R / gamma), is known to a
    relative R epsilon / gamma; the expected alignment is a mean over paths, and the gradient linear in it.
    """
    return 1e-4 if gamma >= 0.1 else max(1e-4, FLOAT32_EPSILON * value / gamma)


@pytest.mark.parametrize("gamma", [1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_soft_dtw_of_padded_clips(gamma):
    for (value, *gradients), (expected, *expected_gradients) in each_pair(gamma):
        np.testing.assert_allclose(value, expected, 1e-5)
        for gradient, exact in zip(gradients, expected_gradients, strict=True):
            assert relative_error(gradient, exact) < soft_dtw_limit(gamma, expected)


@pytest.mark.heavy
@pytest.mark.parametrize("gamma", [1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_soft_dtw_of_padded_clips_in_float64(gamma, x64):
    for (value, *gradients), (expected, *expected_gradients) in each_pair(gamma, np.float64):
        np.testing.assert_allclose(value, expected, 1e-12)
        for gradient, exact in zip(gradients, expected_gradients, strict=True):
            assert relative_error(gradient, exact) < 1e-9


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 128), (2, 2), (2, 31), (31, 1), (31, 128), (128, 2), (128, 128)])
def test_soft_dtw_of_full_clips(n, m):
    gamma = 0.1  # the least whose gradients keep all digits; padded clips have the others
    x, y = opposite_frames(128)
    x, y = x[:1, :n], y[:1, :m]
    _, x_gradient, y_gradient = program("dtw", gamma=gamma)(x, y, None, None, np.ones((1, 1), np.float32))
    _, x_exact, y_exact = oracle.distance("dtw", x[0], y[0], gamma=gamma)
    assert relative_error(x_gradient[0], x_exact) < 1e-4
    assert relative_error(y_gradient[0], y_exact) < 1e-4


@pytest.mark.parametrize("same", [True, False], ids=["x = y", "zeros"])
@pytest.mark.parametrize("gamma", [0, 1e-3, 10.0])
def test_long_clips_stay_finite_where_costs_vanish(gamma, same):
    x = opposite_frames(128)[0] if same else np.zeros((4, 128, 16), np.float32)
    mask = prefix_mask(jnp.array(LENGTHS), 128)
    for result in program("dtw", gamma=gamma, cost="euclidean")(x, x, mask, mask, np.ones((4, 4), np.float32)):
        assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("epsilon", "width", "unit_norm", "limit"),
    [
        # Costs to 4, 800 epsilons: exp leaves float32's range at 88.
        (0.005, 4, True, 1e-3),
        # Costs near 1,000, known to 1e-4, 1e-3 epsilons.
        (0.1, 512, False, 1e-2),
    ],
)
def test_sinkhorn_where_the_kernel_underflows(epsilon, width, unit_norm, limit, rng):
    x_lengths, y_lengths = [12, 5, 1], [3, 20, 11]
    x, y = (rng.normal(size=(3, length, width)).astype(np.float32) for length in (12, 20))
    weighting = rng.normal(size=(3, 3)).astype(np.float32)
    options = dict(epsilon=epsilon, unit_norm=unit_norm)
    x_mask, y_mask = prefix_mask(jnp.array(x_lengths), 12), prefix_mask(jnp.array(y_lengths), 20)
    actual = optimized_jit(value_and_gradients("wasserstein", **options))(x, y, x_mask, y_mask, weighting)
    expected = oracle.pairwise("wasserstein", x, y, x_lengths, y_lengths, weighting, **options)
    np.testing.assert_allclose(actual[0], expected[0], 1e-5)
    for gradient, exact in zip(actual[1:], expected[1:], strict=True):
        assert relative_error(gradient, exact) < limit


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_euclidean_of_wide_features(squared, ragged, rng):
    x, y = (rng.normal(size=(3, length, 512)).astype(np.float32) for length in (32, 64))
    x_lengths, y_lengths = ([32, 17, 1], [64, 5, 40]) if ragged else ([32] * 3, [64] * 3)
    masks = (prefix_mask(jnp.array(x_lengths), 32), prefix_mask(jnp.array(y_lengths), 64)) if ragged else (None, None)
    weighting = rng.normal(size=(3, 3)).astype(np.float32)
    actual = optimized_jit(value_and_gradients("euclidean", squared=squared))(x, y, *masks, weighting)
    expected = oracle.pairwise("euclidean", x, y, x_lengths, y_lengths, weighting, squared=squared)
    np.testing.assert_allclose(actual[0], expected[0], 1e-5)
    for gradient, exact in zip(actual[1:], expected[1:], strict=True):
        assert relative_error(gradient, exact) < 1e-5


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_bfloat16_products_keep_small_distances(name, rng):
    # Norms and products see the same rounded vectors: d(x, x) stays at float32's rounding, far below bfloat16's 4e-3.
    x = rng.normal(size=(2, 3, 8)).astype(np.float32)
    options = {"gamma": 0} if name == "dtw" else {"epsilon": 1e-3} if name == "wasserstein" else {}
    arguments = x, x, None, None, np.ones((2, 2), np.float32)
    values, *gradients = program(name, precision="bfloat16", **options)(*arguments)
    exact, *exact_gradients = program(name, **options)(*arguments)
    assert values.dtype == gradients[0].dtype == jnp.float32
    # A rounded direction is no longer quite a unit vector; transport pays epsilon log 3 for being sharp.
    limit = {"cosine": 1e-2, "wasserstein": 2e-3}.get(name, 1e-4)
    assert float(jnp.max(jnp.abs(jnp.diagonal(values)))) < limit
    np.testing.assert_allclose(values, exact, 0.02, 0.02)
    assert np.any(np.asarray(values) != np.asarray(exact))
    for gradient, exact_gradient in zip(gradients, exact_gradients, strict=True):
        assert relative_error(gradient, exact_gradient) < 0.02
