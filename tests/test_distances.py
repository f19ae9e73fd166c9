"""The suite that every registered distance passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import (
    CASES,
    X_LENGTHS,
    X_SHAPE,
    Y_LENGTHS,
    Y_SHAPE,
    assert_close,
    clips,
    compiled,
    masks,
    program,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scav_jax import distances

every_case = pytest.mark.parametrize("case", CASES)
every_name = pytest.mark.parametrize("name", distances.DISTANCES)


def lengths(shape):
    return st.lists(st.integers(1, shape[1]), min_size=shape[0], max_size=shape[0])


def test_every_distance_has_a_case():
    assert {name for name, _ in CASES.values()} == set(distances.DISTANCES)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # Frames 0, 2 against steps 1, 1, 1: interpolated to 0, 1, 2.
        ("euclidean", {}, 2 / 3),
        ("euclidean", {"squared": False}, 2 / 3),
        # At two positions the frames stay 0, 2 and the steps 1, 1.
        ("euclidean", {"resample": "y_to_x"}, 1.0),
        # Every cell costs 1, and the best path has three.
        ("dtw", {"gamma": 0}, 3 / 5),
        ("dtw", {"gamma": 0, "normalize": False}, 3.0),
        # Two paths of three cells, three of four.
        ("dtw", {"gamma": 1.0}, -np.log(2 * np.exp(-3) + 3 * np.exp(-4)) / 5),
        # Every plan costs 1; x to itself goes straight, at the price of epsilon log 2 for being so sharp.
        ("wasserstein", {}, 1.0),
        ("wasserstein", {"epsilon": 0.1, "debiased": True}, 1 - 0.1 * np.log(2) / 2),
        # Means 1 and 1.
        ("cosine", {}, 0.0),
    ],
)
def test_known_values(name, options, expected):
    x, y = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 3, 1))
    value = jax.jit(functools.partial(distances.pairwise, name, **options))(x, y)
    np.testing.assert_allclose(value, [[expected]], 1e-5, 1e-5)


@every_case
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), x_lengths=lengths(X_SHAPE), y_lengths=lengths(Y_SHAPE))
def test_padded_clips_equal_the_oracle_in_float64(case, x64, seed, x_lengths, y_lengths):
    x, y, weighting = clips(np.random.default_rng(seed), np.float64)
    name, options = CASES[case]
    expected = oracle.pairwise(name, x, y, x_lengths, y_lengths, weighting, **options)
    assert_close(compiled(case)(x, y, *masks(x_lengths, y_lengths), weighting), expected, 1e-8, 1e-9)


@every_case
def test_full_clips_equal_the_oracle_in_float64(case, rng, x64):
    x, y, weighting = clips(rng, np.float64)
    name, options = CASES[case]
    expected = oracle.pairwise(name, x, y, [4] * 4, [6] * 3, weighting, **options)
    assert_close(compiled(case)(x, y, None, None, weighting), expected, 1e-8, 1e-9)


@every_case
def test_fast_equals_reference(case, rng):
    x, y, weighting = clips(rng)
    reference = compiled(case, implementation="reference")
    padded, full = (x, y, *masks(), weighting), (x, y, *masks([4] * 4, [6] * 3), weighting)
    assert_close(compiled(case)(*padded), reference(*padded))
    assert_close(compiled(case)(x, y, None, None, weighting), reference(*full))


@every_case
@pytest.mark.parametrize("garbage", [1e18, np.nan])
def test_padding_changes_nothing(case, garbage, rng):
    x, y, weighting = clips(rng)
    x_mask, y_mask = masks()
    values, x_gradient, y_gradient = compiled(case)(x, y, x_mask, y_mask, weighting)
    dirty = (np.where(mask[:, :, None], frames, np.float32(garbage)) for frames, mask in ((x, x_mask), (y, y_mask)))
    again = compiled(case)(*dirty, x_mask, y_mask, weighting)
    assert_close(again, (values, x_gradient, y_gradient), 0, 0)
    assert not np.any(x_gradient[~x_mask])
    assert not np.any(y_gradient[~y_mask])


@every_case
def test_a_batch_is_a_loop_over_pairs(case, rng):
    x, y, weighting = clips(rng)
    x_mask, y_mask = masks()
    x_gradient, y_gradient, values = np.zeros(X_SHAPE), np.zeros(Y_SHAPE), np.zeros(weighting.shape)
    for i, j in np.ndindex(weighting.shape):
        a, b = slice(i, i + 1), slice(j, j + 1)
        value, of_x, of_y = compiled(case)(x[a], y[b], x_mask[a], y_mask[b], weighting[a, b])
        values[i, j] = value[0, 0]
        x_gradient[i] += of_x[0]
        y_gradient[j] += of_y[0]
    assert_close(compiled(case)(x, y, x_mask, y_mask, weighting), (values, x_gradient, y_gradient), 2e-5, 5e-5)


@every_name
def test_jitted_equals_eager(name, rng):
    x, y, weighting = clips(rng)
    eager = distances.pairwise(name, jnp.asarray(x), jnp.asarray(y), **CASES[name][1])
    np.testing.assert_allclose(compiled(name)(x, y, None, None, weighting)[0], eager, 1e-5, 1e-5)


@every_case
def test_swapping_the_sides_transposes(case, rng):
    x, y, weighting = clips(rng)
    x_mask, y_mask = masks()
    name, options = CASES[case]
    run = compiled(case)
    if name == "euclidean":
        resample = options.get("resample", "x_to_y")
        options = {**options, "resample": {"x_to_y": "y_to_x", "y_to_x": "x_to_y"}.get(resample, resample)}
    if name == "wasserstein":  # until a plan has converged, it favours the side updated last
        options = {**options, "epsilon": 5.0, "num_iterations": 100}
        run = program(name, **options)
    values, x_gradient, y_gradient = run(x, y, x_mask, y_mask, weighting)
    swapped = program(name, **options)(y, x, y_mask, x_mask, weighting.T)
    assert_close(swapped, (values.T, y_gradient, x_gradient), 1e-4, 1e-4)


@every_name
@pytest.mark.parametrize("shapes", [(1, 1), (1, 3), (3, 1)], ids=str)
def test_clips_of_length_one(name, shapes, rng, x64):
    (x, y), weighting = (rng.normal(size=(2, length, 3)) for length in shapes), rng.normal(size=(2, 2))
    expected = oracle.pairwise(name, x, y, [shapes[0]] * 2, [shapes[1]] * 2, weighting)
    assert_close(program(name)(x, y, None, None, weighting), expected, 1e-8, 1e-9)


@every_name
def test_one_missing_mask_stands_for_full_clips(name, rng):
    x, y, weighting = clips(rng)
    expected = compiled(name)(x, y, *masks(X_LENGTHS, [6] * 3), weighting)
    assert_close(compiled(name)(x, y, masks()[0], None, weighting), expected, 1e-6, 1e-6)
    expected = compiled(name)(x, y, *masks([4] * 4, Y_LENGTHS), weighting)
    assert_close(compiled(name)(x, y, None, masks()[1], weighting), expected, 1e-6, 1e-6)


@every_case
@pytest.mark.parametrize("same", [True, False], ids=["x = y", "zeros"])
def test_gradients_are_finite_where_norms_vanish(case, same, rng):
    x, _, weighting = clips(rng)
    x = x if same else np.zeros_like(x)
    y = np.pad(x[:3], ((0, 0), (0, 2), (0, 0)))
    for x_mask, y_mask in (masks(X_LENGTHS, X_LENGTHS[:3]), (None, None)):
        for result in compiled(case)(x, y, x_mask, y_mask, weighting):
            assert np.isfinite(result).all()


@every_name
def test_bfloat16_in_float32_out(name, rng):
    x, y, weighting = clips(rng)
    x, y = jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)
    values, x_gradient, y_gradient = compiled(name)(x, y, *masks(), weighting)
    assert values.dtype == jnp.float32
    assert x_gradient.dtype == y_gradient.dtype == jnp.bfloat16
    widened = compiled(name)(x.astype(jnp.float32), y.astype(jnp.float32), *masks(), weighting)
    np.testing.assert_allclose(values, widened[0], 1e-6, 1e-6)
    for narrow, wide in zip((x_gradient, y_gradient), widened[1:], strict=True):
        np.testing.assert_allclose(narrow.astype(jnp.float32), wide, 2**-8, 1e-6)  # bfloat16 keeps 8 bits


@every_name
def test_float64_in_float64_out(name, x64):
    x, y = jax.ShapeDtypeStruct((1, 2, 3), jnp.float64), jax.ShapeDtypeStruct((1, 3, 3), jnp.float32)
    for a, b in ((x, x), (x, y), (y, x)):
        assert jax.eval_shape(functools.partial(distances.pairwise, name), a, b).dtype == jnp.float64
