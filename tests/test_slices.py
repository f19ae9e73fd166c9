"""Slices: one order for any number of devices, own clips for each, every clip once an epoch of its slice."""

import numpy as np
import pytest

from scav_jax.features.pipeline import train_order
from scav_jax.features.slices import bounds, clips_of_device

NUM_CLIPS, BATCH = 18, 8


def steps(count, slices=1, own=(0,), devices=1):
    order = train_order(NUM_CLIPS, BATCH, 7, slices=slices, own=own, devices=devices)
    return [order[step].tolist() for step in range(count)]


def test_slices_are_contiguous_and_of_one_size_but_for_a_clip(rng):
    for _ in range(20):
        num_clips, slices = int(rng.integers(1, 100)), int(rng.integers(1, 20))
        edges = bounds(num_clips, slices)
        sizes = np.diff(edges)
        assert (edges[0], edges[-1], len(sizes)) == (0, num_clips, slices)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(("slices", "devices"), [(1, 2), (1, 4), (2, 8), (4, 4), (8, 2)])
def test_devices_share_one_order_and_keep_to_their_own_slices(devices, slices):
    count = 8
    parts = [steps(count, slices, (device,), devices) for device in range(devices)]
    assert [np.concatenate(step).tolist() for step in zip(*parts, strict=True)] == steps(count, slices)
    # A process whose devices are not neighbours has their parts side by side.
    assert steps(count, slices, (0, devices - 1), devices) == [a + b for a, b in zip(parts[0], parts[-1], strict=True)]
    shares = [clips_of_device(NUM_CLIPS, slices, device, devices) for device in range(devices)]
    assert set().union(*shares) == set(range(NUM_CLIPS))
    for part, share in zip(parts, shares, strict=True):
        assert {clip for step in part for clip in step} <= set(share)
        assert len(share) <= NUM_CLIPS // min(slices, devices) + 1


def test_every_clip_once_an_epoch_of_its_slice():
    slices = 4
    edges, size = bounds(NUM_CLIPS, slices), BATCH // slices
    drawn, orders = np.array(steps(20, slices)), []
    for index in range(slices):
        order = drawn[:, index * size : (index + 1) * size].ravel()
        clips = np.arange(edges[index], edges[index + 1])
        epochs = order[: len(order) // len(clips) * len(clips)].reshape(-1, len(clips))
        assert (np.sort(epochs) == clips).all()
        assert len({tuple(epoch) for epoch in epochs}) > 5
        orders.append((epochs[:8] - edges[index]).tolist())
    assert orders[0] != orders[2]  # of one size; each has its own seed


def test_batches_of_one_clip_a_device():
    parts = [train_order(NUM_CLIPS, 2, 7, own=(device,), devices=2)[3] for device in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts), train_order(NUM_CLIPS, 2, 7)[3])


def test_slices_that_do_not_fit():
    with pytest.raises(ValueError, match=r"data\.slices: expected a divisor or a multiple of 4 devices, got 6"):
        clips_of_device(NUM_CLIPS, 6, 0, 4)
    for slices in (3, 16):
        with pytest.raises(ValueError, match=rf"data\.slices: expected a divisor of batch_size = 8, got {slices}"):
            steps(1, slices)
