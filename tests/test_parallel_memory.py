"""Compiled temporaries of distances and loss spread over devices: exact sizes, of programs that are never run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from scav_jax import losses, parallel

DISTANCES = {
    "euclidean": {},
    "dtw": {"gamma": 0.1},
    "wasserstein": {"epsilon": 0.05, "num_iterations": 10},
}
FORMS = pytest.mark.parametrize(
    ("distance", "ragged"),
    [
        ("euclidean", False),
        *(pytest.param(distance, True, marks=pytest.mark.heavy) for distance in DISTANCES),
    ],
)


def temporaries(distance, ragged, clips, devices, *, streamed=False):
    """Bytes a device, of the loss and its gradients in sequences and temperature."""
    options = {"tile_size": 64, **DISTANCES[distance]}

    def loss(x, y, temperature, x_mask, y_mask):
        if streamed:
            sequences = x, y, x_mask, y_mask
            return losses.of_sequences(distance, *sequences, temperature, "zscore", parallel.CLIPS, **options)[0]
        matrix = parallel.all_pairs(distance, x, y, x_mask, y_mask, axis_name=parallel.CLIPS, **options)
        return losses.of_matrix(matrix, temperature, "zscore", parallel.CLIPS)[0]

    def shape(*axes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((clips, *axes), dtype)

    mesh = jax.make_mesh((devices,), (parallel.CLIPS,), (AxisType.Auto,), devices=jax.devices()[:devices])
    own = P(parallel.CLIPS)
    step = jax.shard_map(
        jax.value_and_grad(loss, (0, 1, 2)),
        mesh=mesh,
        in_specs=(own, own, P(), own, own),
        out_specs=(P(), (own, own, P())),
    )
    masks = (shape(16, dtype=bool), shape(32, dtype=bool)) if ragged else (None, None)
    temperature = jax.ShapeDtypeStruct((), jnp.float32)
    compiled = jax.jit(step).lower(shape(16, 32), shape(32, 32), temperature, *masks).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def terms(clips, devices):
    return np.stack([np.ones(len(clips)), clips, clips**2 / devices], axis=1)


@FORMS
def test_the_matrix_of_a_device_is_stored_once(distance, ragged):
    """a + b N + c N^2 / P with c little over 4 bytes, N not a multiple of the tile included."""
    clips, devices = np.array([1024, 2048, 5000, 16384]), 8
    found = np.array([temporaries(distance, ragged, count, devices) for count in clips])
    *_, c = coefficients = np.linalg.lstsq(terms(clips, devices) / found[:, None], np.ones(len(clips)))[0]
    assert 4 <= c < 5
    np.testing.assert_allclose(terms(clips, devices) @ coefficients, found, 0.05)


@pytest.mark.heavy
@FORMS
def test_more_devices_add_nothing_but_their_columns(distance, ragged):
    """Clips per device fixed: beside the rows of the matrix, a device needs what it needs in any company."""
    rows, devices = 500, np.array([2, 4, 8])
    found = np.array([temporaries(distance, ragged, rows * count, count) for count in devices])
    beside = found - 4 * rows**2 * devices
    assert beside.max() <= 1.01 * beside.min()


@pytest.mark.heavy
@pytest.mark.parametrize("distance", ["euclidean", "dtw", "wasserstein"])
def test_streamed_stores_no_matrix(distance):
    few, many = (temporaries(distance, True, clips, 8, streamed=True) for clips in (4096, 16384))
    assert many - few < 4 * (16384**2 - 4096**2) / 8 / 4
    assert many < 4 * 16384**2 / 8
