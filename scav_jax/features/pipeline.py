"""Batches of a store's features, by Grain: shuffled without end for training, in order for evaluation.

A Batch is a dict: "index" (B,) int64 positions in the split, and for each modality its features, (B, max_length, width)
float32, zeros after a clip's end, and "<modality>_mask" (B, max_length) bool, or None where all clips of the store have
one length. The padded length is the ledger's max_length: every batch has one shape and the step compiles once.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from scav_jax.features.store import Split, Store

Batch = dict[str, Any]


def train_iterator(
    store: Store, split: str, batch_size: int, seed: int, *, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator:
    """Endless batches of batch_size / process_count clips for this process, reshuffled every epoch.

    The order follows from `seed` alone: the batches of all processes at a step are, put together, the global batch of a
    single process. Every clip comes once an epoch; a batch may straddle two. Its state (get_state, set_state) is one
    position, which restores on any worker count. ValueError: a batch that no split or process count can give.
    """
    clips = store.split(split)
    if batch_size % process_count:
        raise ValueError(f"batch_size: expected a multiple of {process_count} processes, got {batch_size}")
    if not 0 < batch_size <= len(clips):
        raise ValueError(f"batch_size: expected 1 to {len(clips)}, the clips of split {split!r}, got {batch_size}")
    batches = (
        grain.MapDataset.source(clips)
        .seed(seed)
        .shuffle()
        .repeat()
        .batch(batch_size // process_count, batch_fn=lambda examples: _collate(examples, clips))
    )
    # Threads, not processes: reading is light, and a batch is one read of the prefetch buffer.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(batches[process_index::process_count].to_iter_dataset(options))


def eval_batches(store: Store, split: str, batch_size: int) -> Iterator[Batch]:
    """The split's clips in order, once. Each batch has "valid", its number of clips; the last repeats its last clip
    to the full batch size, so that one compiled function serves."""
    clips = store.split(split)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    for start in range(0, len(clips), batch_size):
        examples = [clips[index] for index in range(start, min(start + batch_size, len(clips)))]
        valid = len(examples)
        examples += [examples[-1]] * (batch_size - valid)
        yield {**_collate(examples, clips), "valid": valid}


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
