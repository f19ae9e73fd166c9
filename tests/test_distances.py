"""The suite that every registered distance passes, and the checks of inputs and options that all share."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from configs import base
from scav_jax import distances
from scav_jax.shapes import prefix_mask

X_LENGTHS, Y_LENGTHS = [4, 1, 2, 3], [6, 2, 1]
X_SHAPE, Y_SHAPE = (4, 4, 3), (3, 6, 3)

# At least one case a registered distance, and one a form of its fast path.
CASES = {
    "euclidean": ("euclidean", {}),
    "euclidean-plain-reversed": ("euclidean", {"resample": "y_to_x", "squared": False}),
    "euclidean-grid": ("euclidean", {"resample": 5}),
    "euclidean-plain-grid": ("euclidean", {"resample": 2, "squared": False, "unit_norm": True}),
    "dtw": ("dtw", {"gamma": 0.1}),
    "dtw-hard-debiased": ("dtw", {"gamma": 0, "cost": "cosine", "debiased": True, "normalize": False}),
    "wasserstein": ("wasserstein", {"epsilon": 0.3, "num_iterations": 23, "unit_norm": True}),
    "wasserstein-debiased": ("wasserstein", {"position_weight": 1.0, "cost": "euclidean", "debiased": True}),
    "cosine": ("cosine", {}),
}
every_case = pytest.mark.parametrize("case", CASES)


def masks(x_lengths=X_LENGTHS, y_lengths=Y_LENGTHS):
    return prefix_mask(jnp.array(x_lengths), X_SHAPE[1]), prefix_mask(jnp.array(y_lengths), Y_SHAPE[1])


def clips(rng):
    return (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (X_SHAPE, Y_SHAPE))


@functools.cache
def compiled(case, **extra):
    """jitted (x, y, x_mask, y_mask) -> values, gradients of a fixed weighting of them; compiled once a session."""
    name, options = CASES[case]
    weighting = jnp.asarray(np.random.default_rng(1).normal(size=(X_SHAPE[0], Y_SHAPE[0])), jnp.float32)

    def weighted(x, y, x_mask, y_mask):
        values = distances.pairwise(name, x, y, x_mask, y_mask, **options, **extra)
        return jnp.sum(weighting * values), values

    def run(*arguments):
        (_, values), gradients = jax.value_and_grad(weighted, (0, 1), has_aux=True)(*arguments)
        return values, *gradients

    return jax.jit(run)


def assert_close(actual, expected, rtol=1e-4, atol=2e-4):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol, atol)


def test_every_distance_has_a_case():
    assert {name for name, _ in CASES.values()} == set(distances.DISTANCES)


@every_case
@pytest.mark.parametrize("ragged", [True, False])
def test_fast_equals_reference(case, ragged, rng):
    arguments = (*clips(rng), *(masks() if ragged else (None, None)))
    assert_close(compiled(case)(*arguments), compiled(case, implementation="reference")(*arguments))


@every_case
def test_values_and_gradients_do_not_depend_on_the_tile(case, rng):
    arguments = (*clips(rng), *masks())
    # Two and two clips of x, two and one of y.
    assert_close(compiled(case, tile_size=2)(*arguments), compiled(case)(*arguments), 1e-5, 2e-5)


@every_case
@pytest.mark.parametrize("garbage", [1e18, np.nan])
def test_padding_changes_nothing(case, garbage, rng):
    x, y = clips(rng)
    x_mask, y_mask = masks()
    values, x_gradient, y_gradient = compiled(case)(x, y, x_mask, y_mask)
    dirty = (jnp.where(mask[:, :, None], frames, garbage) for frames, mask in ((x, x_mask), (y, y_mask)))
    assert_close(compiled(case)(*dirty, x_mask, y_mask), (values, x_gradient, y_gradient), 0, 0)
    assert not np.any(x_gradient[~x_mask])
    assert not np.any(y_gradient[~y_mask])


@every_case
def test_masked_jitted_batch_equals_eager_pairs_cut_to_their_lengths(case, rng):
    name, options = CASES[case]
    x, y = clips(rng)
    values, _, _ = compiled(case)(x, y, *masks())
    assert values.shape == (4, 3)
    assert values.dtype == jnp.float32
    for i, j in ((0, 1), (1, 2)):  # the second is one frame against one step
        alone = distances.pairwise(name, x[i : i + 1, : X_LENGTHS[i]], y[j : j + 1, : Y_LENGTHS[j]], **options)
        np.testing.assert_allclose(alone[0, 0], values[i, j], 1e-4, 2e-4)


@every_case
@pytest.mark.parametrize("same", [True, False], ids=["x = y", "zeros"])
def test_gradients_are_finite_where_norms_vanish(case, same, rng):
    x, _ = clips(rng)
    x = x if same else jnp.zeros_like(x)
    y = jnp.pad(x[:3], ((0, 0), (0, 2), (0, 0)))
    for result in compiled(case)(x, y, *masks(X_LENGTHS, X_LENGTHS[:3])):
        assert np.isfinite(result).all()


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_float64_in_float64_out(name, rng, x64):
    x, y = rng.normal(size=(1, 2, 3)), rng.normal(size=(1, 3, 3))
    assert distances.pairwise(name, jnp.asarray(x), jnp.asarray(y)).dtype == jnp.float64


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_bfloat16_products_keep_small_distances(name, rng):
    # Norms and products see the same rounded vectors: d(x, x) stays at float32's rounding, far below bfloat16's 4e-3.
    x = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32)
    options = {"gamma": 0} if name == "dtw" else {"epsilon": 1e-3} if name == "wasserstein" else {}
    values = distances.pairwise(name, x, x, precision="bfloat16", **options)
    exact = distances.pairwise(name, x, x, **options)
    assert values.dtype == jnp.float32
    # A rounded direction is no longer quite a unit vector; transport pays epsilon log 3 for being sharp.
    limit = {"cosine": 1e-2, "wasserstein": 2e-3}.get(name, 1e-4)
    assert float(jnp.max(jnp.abs(jnp.diagonal(values)))) < limit
    np.testing.assert_allclose(values, exact, 0.02, 0.02)
    assert np.any(np.asarray(values) != np.asarray(exact))


def test_memory_is_bounded_by_the_tile():
    shape = jax.ShapeDtypeStruct((32, 16, 8), jnp.float32)

    def temporaries(tile_size):
        gradient = jax.grad(lambda x, y: jnp.sum(distances.pairwise("dtw", x, y, tile_size=tile_size)))
        return jax.jit(gradient).lower(shape, shape).compile().memory_analysis().temp_size_in_bytes

    # 32 x 32 pairs against 4 x 4: 64 times fewer at a time.
    assert temporaries(4) < temporaries(32) / 8


@pytest.mark.parametrize(
    ("message", "name", "changes"),
    [
        ("distance: expected one of", "manhattan", {}),
        ("unknown option 'gamma'", "euclidean", {"gamma": 1.0}),
        ("unknown option 'resmple'", "euclidean", {"resmple": 3}),
        ("resample: expected", "euclidean", {"resample": "both"}),
        ("resample: expected", "euclidean", {"resample": 0}),
        ("squared: expected", "euclidean", {"squared": 1}),
        ("gamma: expected", "dtw", {"gamma": -1.0}),
        ("cost: expected", "dtw", {"cost": "l1"}),
        ("epsilon: expected", "wasserstein", {"epsilon": 0.0}),
        ("num_iterations: expected", "wasserstein", {"num_iterations": 0}),
        ("solver: expected", "wasserstein", {"solver": "pot"}),
        ("precision: expected", "cosine", {"precision": "float16"}),
        ("implementation: expected", "cosine", {"implementation": "slow"}),
        ("tile_size: expected", "cosine", {"tile_size": 0}),
        ("one width", "cosine", {"y": jnp.ones((3, 6, 2))}),
        ("x: expected a floating", "cosine", {"x": jnp.ones((2, 0, 3))}),
        ("x_mask: expected shape", "dtw", {"x_mask": jnp.ones((2, 3), bool)}),
        ("y_mask: expected a prefix", "dtw", {"y_mask": jnp.ones((3, 6), bool).at[1, 0].set(False)}),
        ("y_mask: expected bool", "dtw", {"y_mask": np.ones((3, 6), np.int32)}),
    ],
)
def test_bad_input_is_named(message, name, changes, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without shape types
    arguments = {"x": jnp.ones((2, 4, 3)), "y": jnp.ones((3, 6, 3))} | changes
    with pytest.raises(ValueError, match=message):
        distances.pairwise(name, **arguments)


def test_options_takes_a_config_section():
    section = base.get_config().distance
    assert distances.options("cosine", section) == {
        "tile_size": None,
        "unit_norm": True,
        "precision": "float32",
        "implementation": "fast",
    }
    for name in distances.DISTANCES:
        assert set(distances.options(name, section)) == {"tile_size", *distances.option_names(name)}
    section.resample, section.tile_size = "32", 8
    chosen = distances.options("euclidean", section)
    assert (chosen["resample"], chosen["tile_size"]) == (32, 8)
    with pytest.raises(ValueError, match="gama"):
        distances.options("dtw", {"name": "dtw", "gama": 1.0})
    with pytest.raises(ValueError, match="gamma: expected"):
        distances.options("dtw", {"gamma": -1.0})


def test_can_be_negative():
    assert distances.can_be_negative("dtw", gamma=0.1)
    assert not distances.can_be_negative("dtw", gamma=0)
    assert not distances.can_be_negative("dtw", debiased=True)
    assert not any(distances.can_be_negative(name) for name in ("euclidean", "wasserstein", "cosine"))
