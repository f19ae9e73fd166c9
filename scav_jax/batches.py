"""Training batches on the devices: gathered by index from features that stay there, streamed where these do not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float16, Int
from tqdm import tqdm

from scav_jax import parallel
from scav_jax.features.pipeline import train_iterator, train_order
from scav_jax.features.slices import clips_of_device
from scav_jax.features.store import Split, Store
from scav_jax.shapes import prefix_mask

Batch = dict[str, Any]
# A modality's clips on a device, as the store has them, and their lengths, or None where all are full.
Kept = tuple[Float16[Array, "clips length D"], Int[Array, " clips"] | None]


class Batches:
    """Endless (positions in the split of this process's clips, global batch on the mesh).

    The batches and their order follow from config.seed and config.data.slices, whether features stay or are streamed,
    and the state (get_state, set_state), one position, restores on any number of processes and devices.
    """

    def __init__(self, config: Any, store: Store, mesh: Mesh):
        section, clips = config.data, store.split(config.data.train_split)
        own = parallel.own_devices(mesh)
        order = train_order(
            len(clips), config.batch_size, config.seed, slices=section.slices, own=own, devices=mesh.size
        )
        self._mesh, self._modalities = mesh, sorted(config.model)
        self._starts = np.array([share.start for share in own_clips(config, store.ledger, mesh)])
        self.resident_bytes = resident_bytes(config, store.ledger, mesh.size)
        self._resident = None
        if self.resident_bytes:
            self._resident = _load(clips, self._modalities, _shares(config, store.ledger, mesh.size), mesh)
            self._gather = _gather_on_every_device(mesh)
            self._iterator = iter(order.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
        else:
            self._iterator = train_iterator(store, section.train_split, order)

    def __next__(self) -> tuple[np.ndarray, Batch]:
        if self._resident is None:
            batch = next(self._iterator)
            features = {key: batch[key] for name in self._modalities for key in (name, f"{name}_mask")}
            return batch["index"], parallel.spread(features, self._mesh)
        positions = next(self._iterator)
        within = positions.reshape(len(self._starts), -1) - self._starts[:, None]
        index = parallel.spread(within.ravel().astype(np.int32), self._mesh)
        return positions, self._gather(self._resident, index)

    def get_state(self) -> dict[str, Any]:
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._iterator.set_state(state)


def resident_bytes(config: Any, ledger: Mapping[str, Any], devices: int) -> int:
    """Of the training split's features that are to stay on each device; 0 where that is more than data.resident_gib."""
    entries = (ledger["modalities"][name] for name in config.model)
    clip_bytes = sum(entry["max_length"] * entry["width"] * np.dtype(np.float16).itemsize for entry in entries)
    total = max(map(len, _shares(config, ledger, devices))) * clip_bytes
    return total if total <= config.data.resident_gib * 2**30 else 0


def own_clips(config: Any, ledger: Mapping[str, Any], mesh: Mesh) -> list[range]:
    """For each device of this process, the positions in the training split of all clips that it will ever train on."""
    shares = _shares(config, ledger, mesh.size)
    return [shares[device] for device in parallel.own_devices(mesh)]


def _shares(config: Any, ledger: Mapping[str, Any], devices: int) -> list[range]:
    num_clips = ledger["splits"][config.data.train_split]
    return [clips_of_device(num_clips, config.data.slices, device, devices) for device in range(devices)]


def _load(clips: Split, modalities: Sequence[str], shares: list[range], mesh: Mesh) -> dict[str, Kept]:
    """Every device's share, side by side along the clips, each filled up to the longest."""
    size = max(map(len, shares))
    own = sorted({shares[device] for device in parallel.own_devices(mesh)}, key=lambda share: share.start)
    with tqdm(total=sum(map(len, own)), unit="clip", desc="loading features", delay=2.0) as bar:
        read = {share: _read(clips, modalities, share, size, bar) for share in own}
    return parallel.by_device(lambda device: read[shares[device]], mesh)


def _read(clips: Split, modalities: Sequence[str], share: range, size: int, bar: tqdm) -> dict[str, tuple]:
    entries = {name: clips.modalities[name] for name in modalities}
    kept = {name: np.zeros((size, e["max_length"], e["width"]), np.float16) for name, e in entries.items()}
    lengths = {name: np.ones(size, np.int32) for name in entries}
    for row, index in enumerate(share):
        clip = clips[index]
        for name, features in kept.items():
            lengths[name][row] = len(clip[name])
            features[row, : len(clip[name])] = clip[name]
        bar.update()
    ragged = {name: e["min_length"] != e["max_length"] for name, e in entries.items()}
    return {name: (kept[name], lengths[name] if ragged[name] else None) for name in entries}


def _gather_on_every_device(mesh: Mesh) -> Any:
    def gather(resident: dict[str, Kept], index: Int[Array, " b"]) -> Batch:
        batch: Batch = {}
        for name, (features, lengths) in resident.items():
            batch[name] = features[index].astype(jnp.float32)
            batch[f"{name}_mask"] = None if lengths is None else prefix_mask(lengths[index], features.shape[1])
        return batch

    own = PartitionSpec(parallel.CLIPS)
    return jax.jit(jax.shard_map(gather, mesh=mesh, in_specs=own, out_specs=own))
