"""Batches of a store's features, by Grain: shuffled without end for training, in order for evaluation.

A Batch is a dict: "index" (B,) int64 positions in the split, and for each modality its features, (B, max_length, width)
float32, zeros after a clip's end, and "<modality>_mask" (B, max_length) bool, or None where all clips of the store have
one length. The padded length is the ledger's max_length: every batch has one shape and the step compiles once.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from scav_jax.features.slices import bounds, slices_of_device
from scav_jax.features.store import Split, Store

Batch = dict[str, Any]

# Endless, in numbers that Grain can add up: its own endless repeat has as many clips as an integer holds.
_STEPS, _DRAWS = 2**40, 2**62


def train_order(
    num_clips: int, batch_size: int, seed: int, *, slices: int = 1, own: Sequence[int] = (0,), devices: int = 1
) -> grain.MapDataset:
    """By step, the positions (batch_size * len(own) / devices,) of the clips that the `own` of the devices train on.

    The global batch follows from `seed` and `slices` alone: its parts for all devices are, put together, the batch of a
    single one. Each slice is shuffled by a seed of its own, and each of its clips comes once before any comes again.
    ValueError: a batch that split, slices or devices cannot give.
    """
    if batch_size % devices:
        raise ValueError(f"batch_size: expected a multiple of {devices} devices, got {batch_size}")
    if not 0 < batch_size <= num_clips:
        raise ValueError(f"batch_size: expected 1 to {num_clips}, the clips to train on, got {batch_size}")
    if batch_size % slices:
        raise ValueError(f"data.slices: expected a divisor of batch_size = {batch_size}, got {slices}")
    edges, per_slice = bounds(num_clips, slices), max(1, devices // slices)
    size = batch_size // max(slices, devices)

    def part(index: int, device: int) -> grain.MapDataset:
        clips = grain.MapDataset.range(edges[index], edges[index + 1])
        order = clips.seed(_slice_seed(seed, index)).shuffle().repeat(_DRAWS // len(clips))
        return order.batch(size)[device % per_slice : per_slice * _STEPS : per_slice]

    parts = [part(index, device) for device in own for index in slices_of_device(slices, device, devices)]
    return grain.experimental.ZipMapDataset(parts).map(np.concatenate)


def train_iterator(store: Store, split: str, order: grain.MapDataset) -> grain.DatasetIterator:
    """Endless batches of the split's clips in this order. The state (get_state, set_state) is one position, the step,
    which restores on any number of processes and devices."""
    clips = store.split(split)
    batches = order.map(lambda indices: _collate([clips[index] for index in indices], clips))
    # Threads, not processes: reading is light, and a batch is one read of the prefetch buffer.
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def eval_batches(
    store: Store, split: str, batch_size: int, members: Sequence[int] | np.ndarray | None = None
) -> Iterator[Batch]:
    """The split's clips in order, once; `members`: some of them. Each batch has "valid", its number of clips; the last
    repeats its last clip to the full batch size, so that one compiled function serves."""
    clips = store.split(split)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    members = range(len(clips)) if members is None else members
    for start in range(0, len(members), batch_size):
        examples = [clips[index] for index in members[start : start + batch_size]]
        valid = len(examples)
        examples += [examples[-1]] * (batch_size - valid)
        yield {**_collate(examples, clips), "valid": valid}


def _slice_seed(seed: int, index: int) -> int:
    return seed if index == 0 else int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _collate(examples: Sequence[dict[str, Any]], split: Split) -> Batch:
    batch: Batch = {"index": np.array([example["index"] for example in examples], np.int64)}
    for modality, entry in split.modalities.items():
        lengths = np.array([len(example[modality]) for example in examples])
        features = np.zeros((len(examples), entry["max_length"], entry["width"]), np.float32)
        for row, example in zip(features, examples, strict=True):
            row[: len(example[modality])] = example[modality]
        batch[modality] = features
        ragged = entry["min_length"] != entry["max_length"]
        batch[f"{modality}_mask"] = np.arange(entry["max_length"]) < lengths[:, None] if ragged else None
    return batch
