"""Distances on 8 devices: inside jax.shard_map, its checks on, and as a plain jitted program of sharded arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import program, relative_error, value_and_gradients
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from scav_jax.distances import DISTANCES, pairwise
from scav_jax.shapes import prefix_mask

# Two clips of x a device, so that tiles of one are tiles; y uneven where it is not sharded.
X_SHAPE, Y_SHARDED, Y_REPLICATED = (16, 3, 4), (16, 5, 4), (5, 5, 4)

WASSERSTEIN = {"epsilon": 1.0, "num_iterations": 12}
# One a fast form of each distance; ragged or full clips.
FORMS = {
    "euclidean": ("euclidean", {}, False),
    "euclidean-plain": ("euclidean", {"squared": False}, False),
    "euclidean-ragged": ("euclidean", {}, True),
    "euclidean-plain-ragged": ("euclidean", {"resample": "y_to_x", "squared": False}, True),
    "euclidean-grid-ragged": ("euclidean", {"resample": 4}, True),
    "dtw": ("dtw", {}, False),
    "dtw-ragged": ("dtw", {"gamma": 0.5, "cost": "cosine"}, True),
    "dtw-hard-debiased": ("dtw", {"gamma": 0, "cost": "euclidean", "debiased": True}, True),
    "wasserstein": ("wasserstein", WASSERSTEIN, False),
    "wasserstein-debiased": ("wasserstein", {**WASSERSTEIN, "position_weight": 1.0, "debiased": True}, True),
    "cosine": ("cosine", {"unit_norm": True}, False),
    "cosine-ragged": ("cosine", {}, True),
}
# Tiles of one in every form; those chosen from the shapes, here one for all, in one form of each distance.
tiled = pytest.mark.parametrize(
    ("form", "tile_size"), [*((form, 1) for form in FORMS), *((name, None) for name in DISTANCES)]
)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("clips",), axis_types=(AxisType.Auto,))


def arguments(rng, y_shape, ragged):
    x, y, weighting = (rng.normal(size=s).astype(np.float32) for s in (X_SHAPE, y_shape, (X_SHAPE[0], y_shape[0])))
    if not ragged:
        return x, y, None, None, weighting
    x_mask, y_mask = (
        prefix_mask(jnp.asarray(rng.integers(1, shape[1] + 1, shape[0])), shape[1]) for shape in (X_SHAPE, y_shape)
    )
    return x, y, x_mask, y_mask, weighting


@pytest.mark.heavy
@tiled
def test_own_rows_against_replicated_columns(form, tile_size, mesh, rng):
    name, options, ragged = FORMS[form]
    inputs = arguments(rng, Y_REPLICATED, ragged)
    run = value_and_gradients(name, tile_size=tile_size, **options)
    specs = P("clips"), P(), P("clips"), P(), P("clips")
    sharded = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(P("clips"), P("clips"), P()))
    assert_equal(jax.jit(sharded)(*inputs), program(name, **options)(*inputs))


@tiled
def test_own_rows_against_gathered_columns(form, tile_size, mesh, rng):
    name, options, ragged = FORMS[form]
    inputs = arguments(rng, Y_SHARDED, ragged)

    def weighted(x, y, x_mask, y_mask, weighting):
        y, y_mask = jax.tree.map(lambda array: jax.lax.all_gather(array, "clips", tiled=True), (y, y_mask))
        values = pairwise(name, x, y, x_mask, y_mask, tile_size=tile_size, **options)
        return jnp.sum(weighting * values), values

    def run(*arguments):
        (_, values), gradients = jax.value_and_grad(weighted, (0, 1), has_aux=True)(*arguments)
        return values, *gradients

    sharded = jax.shard_map(run, mesh=mesh, in_specs=P("clips"), out_specs=P("clips"))
    assert_equal(jax.jit(sharded)(*inputs), program(name, **options)(*inputs))


@pytest.mark.parametrize("name", DISTANCES)
def test_differentiated_from_outside(name, mesh, rng):
    inputs = arguments(rng, Y_REPLICATED, True)
    specs = P("clips"), P(), P("clips"), P()

    rows = functools.partial(pairwise, name, tile_size=1, **FORMS[name][1])
    rows = jax.shard_map(rows, mesh=mesh, in_specs=specs, out_specs=P("clips"))

    def weighted(x, y, x_mask, y_mask, weighting):
        values = rows(x, y, x_mask, y_mask)
        return jnp.sum(weighting * values), values

    (_, values), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))(*inputs)
    assert_equal((values, *gradients), program(name, **FORMS[name][1])(*inputs))


@pytest.mark.parametrize("form", [*DISTANCES, "wasserstein-ott"])
@pytest.mark.parametrize("tile_size", [None, 1])
def test_jitted_over_sharded_arrays(form, tile_size, mesh, rng):
    name, options = FORMS[form][:2] if form in FORMS else ("wasserstein", {**WASSERSTEIN, "solver": "ott"})
    inputs = arguments(rng, Y_SHARDED, True)
    placed = jax.device_put(inputs, NamedSharding(mesh, P("clips")))
    run = jax.jit(value_and_gradients(name, tile_size=tile_size, **options))
    assert_equal(run(*placed), program(name, **options)(*inputs))


def test_ott_inside_shard_map_is_refused(mesh, rng):
    x, y, *_ = arguments(rng, Y_SHARDED, False)
    inside = jax.shard_map(
        lambda x, y: pairwise("wasserstein", x, y, solver="ott"),
        mesh=mesh,
        in_specs=(P("clips"), P()),
        out_specs=P("clips"),
    )
    with pytest.raises(ValueError, match=r"solver.*shard_map"):
        jax.eval_shape(inside, x, y)


def assert_equal(sharded, whole):
    for part, expected in zip(sharded, whole, strict=True):
        assert relative_error(part, expected) < 1e-5
