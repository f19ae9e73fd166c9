"""Batches on the devices: features that stay give what streamed ones give, and each device keeps its own alone."""

import jax
import numpy as np
import pytest
from test_pipeline import make_store

from configs import base
from scav_jax import parallel
from scav_jax.batches import Batches, own_clips, resident_bytes

NUM_CLIPS = 21


@pytest.fixture(scope="module", params=[True, False], ids=["ragged", "full"])
def store(request, tmp_path_factory):
    lengths = [1 + clip % 4 if request.param else 4 for clip in range(NUM_CLIPS)]
    return make_store(tmp_path_factory.mktemp("kept"), lengths)


def config(slices=1, resident_gib=1.0):
    found = base.get_config()
    found.update_from_flattened_dict(
        {"batch_size": 8, "data.slices": slices, "data.resident_gib": resident_gib, "data.train_split": "train"}
    )
    return found


def take(batches, count):
    return [jax.tree.map(np.asarray, next(batches)) for _ in range(count)]


@pytest.mark.parametrize(("slices", "devices"), [(1, 1), (4, 1), (2, 4), (8, 4)])
def test_features_that_stay_give_the_batches_of_streamed_ones(slices, devices, store):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    kept, streamed = Batches(config(slices), store, mesh), Batches(config(slices, 0.0), store, mesh)
    assert kept.resident_bytes > 0 == streamed.resident_bytes
    expected = take(streamed, 6)
    jax.tree.map(np.testing.assert_array_equal, take(kept, 6), expected)
    # and go on from the other's state
    for batches, other in ((kept, streamed), (streamed, kept)):
        again = Batches(config(slices), store, parallel.make_mesh(jax.devices()[:2]))
        again.set_state(batches.get_state())
        jax.tree.map(np.testing.assert_array_equal, take(again, 2), take(other, 2))
        batches.set_state(other.get_state())


def test_each_device_keeps_what_the_plan_says(store):
    mesh = parallel.make_mesh()
    entries = store.ledger["modalities"].values()
    clip_bytes = 2 * sum(entry["max_length"] * entry["width"] for entry in entries)
    for slices, share in ((1, NUM_CLIPS), (4, 6), (8, 3)):
        batches = Batches(config(slices), store, mesh)
        assert batches.resident_bytes == resident_bytes(config(slices), store.ledger, mesh.size) == share * clip_bytes
        for features, _ in batches._resident.values():
            assert {shard.data.shape[0] for shard in features.addressable_shards} == {share}
        assert max(map(len, own_clips(config(slices), store.ledger, mesh))) == share


def test_features_that_do_not_fit_are_streamed(store):
    needed = resident_bytes(config(), store.ledger, 1) / 2**30
    assert resident_bytes(config(resident_gib=needed), store.ledger, 1) > 0
    assert resident_bytes(config(resident_gib=0.99 * needed), store.ledger, 1) == 0
    assert resident_bytes(config(slices=2, resident_gib=0.6 * needed), store.ledger, 2) > 0
