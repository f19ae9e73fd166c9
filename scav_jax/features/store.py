"""A store: one data set's features, packed once and read at random, with a ledger that says what they are.

STORE/ledger.json    modalities (width, rate, lengths, extractor), splits, ids_sha256, decoder, media, files
STORE/clips.csv      id,split,label,group,subset in the order of the splits
STORE/clips/1.0.0/   TFDS files (array_record)

An extractor of other settings, a count that differs, a truncated shard or a flipped bit raises a FeatureError.
"""

import json
import operator
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from scav_jax.features.checks import FeatureError
from scav_jax.features.clips import Clip, ids_sha256, read_clips, write_clips
from scav_jax.features.plan import FORMAT, Plan, plan_store
from scav_jax.files import AnyPath

LEDGER = "ledger.json"
CLIPS = "clips.csv"


def build(
    features: str | Path | Mapping[str, str | Path],
    store_dir: str | Path,
    clips_csv: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Packs features into a new store and returns its ledger; `features` and options as in plan_store."""
    if Path(store_dir).exists():
        raise ValueError(f"store: expected a new folder, {store_dir} is there already")
    return write_store(plan_store(features, clips_csv, **options), store_dir)


def write_store(plan: Plan, store_dir: str | Path) -> dict[str, Any]:
    """Writes the planned store beside `store_dir`, renames it there when it is complete, and returns its ledger."""
    from scav_jax.features import tfds_builder

    store_dir = Path(store_dir).absolute()
    partial = store_dir.with_name(f".{store_dir.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        widths = {modality: entry["width"] for modality, entry in plan.ledger["modalities"].items()}
        tfds_builder.write(partial, plan.splits, widths, plan.folder.load)
        write_clips(partial / CLIPS, (clip for clips in plan.splits.values() for clip in clips))
        ledger = {**plan.ledger, "files": _sizes(partial)}
        (partial / LEDGER).write_text(json.dumps(ledger, indent=2))
        partial.rename(store_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ledger


@dataclass(frozen=True)
class Facts:
    """A split's facts in its order, each an array of (num_clips,) strings, read without touching features."""

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    subsets: np.ndarray

    @property
    def families(self) -> np.ndarray:
        """Which clips are related, for intervals: of each its group, or itself where it has none."""
        return np.where(self.groups == "", self.ids, self.groups)

    def __getitem__(self, rows: np.ndarray) -> "Facts":
        return Facts(self.ids[rows], self.labels[rows], self.groups[rows], self.subsets[rows])


class Split:
    """A split's clips, random access by index: dicts of index, id, label, group, subset and a float32 (length, width)
    array per modality. Index i is the same clip for good. FeatureError names the shard that cannot be read."""

    def __init__(self, name: str, source: Any, clips: list[Clip], modalities: Mapping[str, Mapping[str, Any]]):
        self.name = name
        self.modalities = modalities
        self._source, self._clips = source, clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]:
        index = operator.index(position)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: expected an index below {len(self)}, got {index}")
        clip = self._clips[index]
        try:
            example = self._source[index]
        except (RuntimeError, ValueError, OSError) as error:
            shard = self._shard(index)
            what = error if shard.exists() else "this copy of the store was made without the shard"
            raise FeatureError([f"{shard}: clip {clip.id} cannot be read: {what}"]) from error
        if example["id"].decode() != clip.id:
            raise FeatureError(
                [f"{self._shard(index)}: expected clip {clip.id} at {index}, got {example['id'].decode()}"]
            )
        features = {modality: example[modality].astype(np.float32) for modality in self.modalities}
        return {
            "index": index,
            "id": clip.id,
            "label": clip.label,
            "group": clip.group,
            "subset": clip.subset,
            **features,
        }

    def _shard(self, index: int) -> Path:
        from scav_jax.features import tfds_builder

        shards = tfds_builder.shards(self._source.dataset_info.splits[self.name])
        return next(path for path, clips in shards if index in clips)


class Store:
    """An opened store; open_store makes it."""

    def __init__(self, path: Path, ledger: dict[str, Any], clips: dict[str, list[Clip]], builder: Any):
        self.path = path
        self.ledger = ledger
        self._clips, self._builder = clips, builder

    def split(self, name: str) -> Split:
        """The clips of a split."""
        clips = self._clips_of(name)
        return Split(name, self._builder.as_data_source(split=name), clips, self.ledger["modalities"])

    def facts(self, name: str) -> Facts:
        """The facts of a split."""
        clips = self._clips_of(name)
        columns = ([getattr(clip, column) for clip in clips] for column in ("id", "label", "group", "subset"))
        return Facts(*map(np.array, columns))

    def check_extractor(self, modality: str, expected: Mapping[str, Any]) -> None:
        """FeatureError that names each setting in which the store's features differ from an expected extractor."""
        kept = self.ledger["modalities"][modality]["extractor"] or {}
        differing = [key for key in sorted({*kept, *expected}) if kept.get(key) != expected.get(key)]
        if differing:
            raise FeatureError(
                [
                    f"{self.path}: {modality} extractor {key}: expected {expected.get(key)!r}, got {kept.get(key)!r}"
                    for key in differing
                ]
            )

    def _clips_of(self, name: str) -> list[Clip]:
        if name not in self._clips:
            raise ValueError(f"split: expected one of {', '.join(self._clips)} of {self.path}, got {name!r}")
        return self._clips[name]


def open_store(store_dir: str | Path, *, partial: bool = False) -> Store:
    """Opens a store after checking the ledger against its files' sizes, its clip table and the TFDS metadata.

    partial: shards may be missing, as from a copy of a few; who reads a clip of one gets a FeatureError.
    """
    from scav_jax.features import tfds_builder

    path = Path(store_dir)
    ledger = read_ledger(path)
    sizes = {name: (path / name).stat().st_size for name in ledger["files"] if (path / name).is_file()}
    problems = [
        f"{path / name}: expected {size} bytes, got {sizes.get(name, 'no file')}"
        for name, size in ledger["files"].items()
        if sizes.get(name) != size and not (partial and is_shard(name) and name not in sizes)
    ]
    if problems:
        raise FeatureError(problems)
    clips: dict[str, list[Clip]] = {}
    for clip in read_clips(path / CLIPS):
        clips.setdefault(clip.split, []).append(clip)
    builder = tfds_builder.read(path)
    _check_ledger(path, ledger, clips, builder)
    return Store(path, ledger, clips, builder)


def is_shard(name: str) -> bool:
    """Whether a file of the ledger holds features."""
    return ".array_record" in name


def read_ledger(path: AnyPath) -> dict[str, Any]:
    """The ledger of the store there, local or not. FeatureError: there is none, or of another format."""
    if not (path / LEDGER).is_file():
        raise FeatureError([f"{path}: expected a store with a {LEDGER}, found none"])
    try:
        ledger = json.loads((path / LEDGER).read_text())
    except ValueError as error:
        raise FeatureError([f"{path / LEDGER}: expected JSON: {error}"]) from error
    if ledger.get("format") != FORMAT:
        raise FeatureError([f"{path / LEDGER}: expected format {FORMAT}, got {ledger.get('format')}"])
    return ledger


def _check_ledger(path: Path, ledger: dict[str, Any], clips: dict[str, list[Clip]], builder: Any) -> None:
    widths = {modality: entry["width"] for modality, entry in ledger["modalities"].items()}
    stored = {name: spec.shape[1] for name, spec in builder.info.features.items() if len(spec.shape) == 2}
    facts: list[tuple[str, Any, Any]] = [
        ("splits of the TFDS files", {name: info.num_examples for name, info in builder.info.splits.items()}, "splits"),
        (f"splits of {CLIPS}", {name: len(members) for name, members in clips.items()}, "splits"),
        (
            f"ids of {CLIPS}",
            {name: ids_sha256([c.id for c in members]) for name, members in clips.items()},
            "ids_sha256",
        ),
    ]
    problems = [
        f"{path / LEDGER}: {key} {ledger[key]} differ from the {what}, {found}"
        for what, found, key in facts
        if found != ledger[key]
    ]
    if stored != widths:
        problems.append(f"{path / LEDGER}: widths {widths} differ from those of the TFDS files, {stored}")
    if problems:
        raise FeatureError(problems)


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of every file below but the ledger, by relative name."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / LEDGER)
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
