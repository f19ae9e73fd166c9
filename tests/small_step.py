"""A training step small enough to compile in seconds, and what it means that two ways of taking it agree.

As a script it takes the gradients of many cases, as one process or, told so, as one of several, and writes them.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from scav_jax import parallel, training
from scav_jax.shapes import prefix_mask

CLIPS = 16
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def config(distance="euclidean", normalization="zscore", **changes):
    found = base.get_config()
    found.distance.update(name=distance, num_iterations=20, epsilon=0.3, debiased=distance == "dtw")
    found.batch_size = CLIPS
    for tower, width in ((found.model.visual, 5), (found.model.audio, 4)):
        tower.update(feature_width=width, width=8, mlp_width=8, num_heads=2, num_layers=1, ffn_width=8)
        tower.update(position_buckets=4, dropout=0.3)
    if distance == "cosine":
        found.method, found.distance.name = "cav", "euclidean"
    found.recipe[distance].normalization = normalization
    found.update_from_flattened_dict(changes)
    return found


def batch(ragged, dtype="float32"):
    rng = np.random.default_rng(0)
    visual, audio = (rng.normal(size=shape).astype(dtype) for shape in ((CLIPS, 6, 5), (CLIPS, 9, 4)))
    masks = (
        prefix_mask(jnp.asarray(rng.integers(1, v.shape[1] + 1, CLIPS)), v.shape[1]) if ragged else None
        for v in (visual, audio)
    )
    return {"visual": visual, "audio": audio, **dict(zip(("visual_mask", "audio_mask"), masks, strict=True))}


def parameters_and_keys(config, dtype):
    parameters = jax.tree.map(lambda leaf: leaf.astype(dtype), training.init(config).parameters)
    return parameters, jax.random.split(jax.random.key(1), CLIPS)


def assert_same(found, expected, tolerance):
    """A tensor's error is measured by its own norm, but of a vanishing one (a key's bias) by 1e-3 of all."""
    (value, metrics), gradient = found
    (expected_value, expected_metrics), expected_gradient = expected
    np.testing.assert_allclose(value, expected_value, tolerance)
    for key, metric in expected_metrics.items():
        np.testing.assert_allclose(metrics[key], metric, tolerance, err_msg=key)
    leaves = jax.tree.leaves_with_path(expected_gradient)
    whole = np.sqrt(sum(np.sum(np.square(leaf)) for _, leaf in leaves))
    for (path, leaf), other in zip(leaves, jax.tree.leaves(gradient), strict=True):
        norm = max(np.linalg.norm(leaf), 1e-3 * whole)
        assert np.linalg.norm(other - leaf) <= tolerance * norm, jax.tree_util.keystr(path)


def spread_gradients(distance, normalization, dtype):
    """Leaves of (loss, gradient) of the step on all devices of all processes, whole on each."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    # In turn of each process, as the neighbours on a pod may be.
    devices = [
        device for turn in zip(*map(jax.local_devices, range(jax.process_count())), strict=True) for device in turn
    ]
    own, mesh = config(distance, normalization), parallel.make_mesh(devices)
    assert parallel.own_devices(mesh) == list(range(jax.process_index(), mesh.size, jax.process_count()))
    data = parallel.spread_whole(jax.tree.map(np.asarray, batch(True, dtype)), mesh)
    parameters, keys = parameters_and_keys(own, dtype)
    step = parallel.on_every_device(lambda state, data, axis_name=None: _gradient(own, state, data, axis_name), mesh)
    found = jax.jit(step)((parameters, keys), data)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


def _gradient(config, state, data, axis_name):
    parameters, keys = state
    own = len(data["visual"])
    keys = jax.lax.dynamic_slice_in_dim(keys, parallel.index(axis_name) * own, own)
    (value, _), gradient = training.gradient(config, parameters, data, keys, axis_name)
    return value, gradient


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", required=True, help="DISTANCE-NORMALIZATION, in every type")
    parser.add_argument("--coordinator")
    parser.add_argument("--process", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.coordinator:
        jax.distributed.initialize(arguments.coordinator, 2, arguments.process)
    cases = [f"{case}-{dtype}" for case in arguments.cases for dtype in TOLERANCE]
    results = {case: spread_gradients(*case.split("-")) for case in cases}
    if jax.process_index() == 0:
        leaves = {f"{case}-{i:03}": leaf for case, found in results.items() for i, leaf in enumerate(found)}
        np.savez(arguments.out, **leaves)


if __name__ == "__main__":
    main()
