"""The step spread over devices or cut into micro-batches is the step of one device: same loss, same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import heavy_unless
from jax.sharding import PartitionSpec as P
from small_step import CLIPS, TOLERANCE, assert_same, batch, config, parameters_and_keys

from scav_jax import losses, parallel, training
from scav_jax.distances import DISTANCES
from scav_jax.losses import NORMALIZATIONS


def on_8_devices(function):
    """function(parameters, batch, keys, axis_name) with batch and keys spread over 8 devices."""
    spread = P(parallel.CLIPS)
    inside = functools.partial(function, axis_name=parallel.CLIPS)
    mesh = parallel.make_mesh()
    return jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=(P(), spread, spread), out_specs=P()))


def compare(config, ragged, dtype, *changed):
    data = batch(ragged, dtype)
    parameters, keys = parameters_and_keys(config, dtype)
    expected = jax.jit(functools.partial(training.gradient, config))(parameters, data, keys)
    for function in changed:
        assert_same(function(parameters, data, keys), expected, TOLERANCE[dtype])


# DTW, which compiles longest, is spread over devices by test_sharded_distances.py too.
@pytest.mark.parametrize(
    ("distance", "ragged", "dtype"),
    [
        heavy_unless(
            dtype == "float64" and ragged and distance in ("euclidean", "wasserstein"), distance, ragged, dtype
        )
        for distance in DISTANCES
        for ragged in (False, True)
        for dtype in TOLERANCE
    ],
)
def test_8_devices_are_one(distance, ragged, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    own = config(distance)
    compare(own, ragged, dtype, on_8_devices(functools.partial(training.gradient, own)))


@pytest.mark.parametrize("dtype", [heavy_unless(dtype == "float64", dtype) for dtype in TOLERANCE])
def test_micro_batches_are_the_whole(dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    spread = functools.partial(training.gradient, config(micro_batch_size=8))
    alone = functools.partial(training.gradient, config(micro_batch_size=4))
    compare(config(), True, dtype, on_8_devices(spread), jax.jit(alone))


@pytest.mark.parametrize(
    ("distance", "normalization", "dtype"),
    [
        *(
            heavy_unless(normalization == "zscore" and distance == "wasserstein", distance, normalization, "float64")
            for distance in DISTANCES
            for normalization in NORMALIZATIONS
        ),
        *(heavy_unless(False, distance, "zscore", "float32") for distance in DISTANCES),
    ],
)
def test_stored_or_streamed_on_one_or_8_devices(distance, normalization, dtype, request, monkeypatch):
    """Every normalisation of every distance: distances and loss alone, from sequences."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    tolerance, rng = TOLERANCE[dtype], np.random.default_rng(0)
    x, y = (rng.normal(size=(CLIPS, length, 3)).astype(dtype) for length in (4, 6))
    options = {"dtw": {"debiased": True}, "wasserstein": {"num_iterations": 10, "epsilon": 1.0}}.get(distance, {})

    def stored(x, y, temperature, axis_name=None):
        matrix = parallel.all_pairs(distance, x, y, axis_name=axis_name, **options)
        return losses.of_matrix(matrix, temperature, normalization, axis_name)

    def streamed(x, y, temperature, axis_name=None):
        return losses.of_sequences(
            distance, x, y, None, None, temperature, normalization, axis_name=axis_name, **options
        )

    def spread(loss):
        own, inside = P(parallel.CLIPS), functools.partial(loss, axis_name=parallel.CLIPS)
        return jax.shard_map(inside, mesh=parallel.make_mesh(), in_specs=(own, own, P()), out_specs=P())

    def results(loss):
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(x, y, jnp.asarray(0.3, dtype))

    expected = results(stored)
    monkeypatch.setattr(losses, "_CPU_BLOCK_BYTES", 4 * 3 * CLIPS)  # blocks that divide neither rows nor columns
    for loss in (stored, streamed, spread(stored), spread(streamed)):
        (value, numbers), gradients = results(loss)
        np.testing.assert_allclose(value, expected[0][0], tolerance)
        np.testing.assert_allclose(numbers, expected[0][1], 10 * tolerance)
        for other, leaf in zip(gradients, expected[1], strict=True):
            assert np.linalg.norm(other - leaf) <= tolerance * np.linalg.norm(leaf)


def test_the_ring_gathers_no_sequences():
    own = config()
    step = on_8_devices(functools.partial(training.gradient, own))
    text = step.lower(*_shapes(own)).compile().as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text


def _shapes(config):
    parameters, keys = parameters_and_keys(config, "float32")
    return parameters, batch(ragged=False), keys


def test_one_device_takes_the_plain_step():
    """So the ring costs it nothing: it is not there."""
    step = functools.partial(training.train_step, config())
    assert parallel.on_every_device(step, parallel.make_mesh(jax.devices()[:1])) is step


def test_a_whole_step_on_8_devices(request):
    own = config()
    state = training.init(own)
    expected, expected_metrics = jax.jit(functools.partial(training.train_step, own))(state, batch(ragged=True))
    inside = functools.partial(training.train_step, own, axis_name=parallel.CLIPS)
    spread = jax.shard_map(inside, mesh=parallel.make_mesh(), in_specs=(P(), P(parallel.CLIPS)), out_specs=P())
    found, metrics = jax.jit(spread)(state, batch(ragged=True))
    assert int(found.step) == 1
    for key, metric in expected_metrics.items():
        np.testing.assert_allclose(metrics[key], metric, 1e-4, err_msg=key)
    # The first update of Adam is a sign: where a gradient is but rounding, it may be either.
    for leaf, other in zip(jax.tree.leaves(expected.parameters), jax.tree.leaves(found.parameters), strict=True):
        np.testing.assert_allclose(other, leaf, 0, 1e-6)
