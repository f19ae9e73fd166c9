"""Stores in a bucket or on a slow disk, copied once into a local folder: array_record reads local files only."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from scav_jax import files
from scav_jax.features.checks import FeatureError
from scav_jax.features.store import LEDGER, Store, is_shard, open_store, read_ledger

_CHUNK_BYTES = 2**24
_SILENT_S = 2.0  # a shorter copy shows no progress


# Of each split that is read, the positions of the clips that are.
Needed = Mapping[str, Iterable[range]]


def open_staged(store: str | Path, stage: str = "", needed: Needed | None = None) -> Store:
    """Opens the store, from a copy below `stage`, or below the user's cache where that is "": of all its shards, or of
    those that hold the clips needed.

    A local store without `stage` is opened where it is. What an earlier call copied is not copied again; a file gets
    its name only when it is as long as the ledger says, the ledger comes last, and of several processes one copies.

    FeatureError: no store there, a file missing or of another size, or a disk too small. OSError: as files.at.
    """
    source = files.at(store)
    if isinstance(source, Path) and not stage:
        return open_store(source)
    ledger = read_ledger(source)
    folder = _folder(source, ledger, stage)
    with files.alone_in(folder):
        sizes = ledger["files"]
        if needed is not None:
            _copy_missing(source, folder, {name: size for name, size in sizes.items() if not is_shard(name)})
            sizes = {name: sizes[name] for name in _shards(folder, needed)}
        _copy_missing(source, folder, sizes)
        files.write_whole(folder / LEDGER, json.dumps(ledger, indent=2))
    return open_store(folder, partial=needed is not None)


def _folder(source: files.AnyPath, ledger: dict, stage: str) -> Path:
    """Named by address and ledger, so that a store packed anew never mixes with the copy of the old one."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scav_jax"
    digest = hashlib.sha256(f"{files.absolute(source)}\n{json.dumps(ledger, sort_keys=True)}".encode()).hexdigest()
    return (Path(stage) if stage else cache) / f"{source.name}-{digest[:16]}"


def _shards(folder: Path, needed: Needed) -> list[str]:
    from scav_jax.features import tfds_builder

    splits = tfds_builder.read(folder).info.splits
    return [
        path.relative_to(folder).as_posix()
        for split in needed.keys() & splits.keys()  # a split that there is not is for the reader to name
        for path, clips in tfds_builder.shards(splits[split])
        if any(clips.start < wanted.stop and wanted.start < clips.stop for wanted in needed[split])
    ]


def _copy_missing(source: files.AnyPath, folder: Path, sizes: dict[str, int]) -> None:
    if outside := [name for name in sizes if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise FeatureError([f"{source / LEDGER}: expected files below the store, got {name}" for name in outside])
    missing = {name: size for name, size in sizes.items() if _size(folder / name) != size}
    needed, free = sum(missing.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise FeatureError([f"stage: expected {needed:,} bytes free for {source} in {folder}, got {free:,}"])
    progress = tqdm(total=needed, unit="B", unit_scale=True, desc=f"copying {source.name}", delay=_SILENT_S)
    with progress as bar:
        for name, size in missing.items():
            _copy(source / name, folder / name, size, bar)


def _copy(source: files.AnyPath, target: Path, size: int, bar: tqdm) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        with source.open("rb") as reader, partial.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                writer.write(chunk)
                bar.update(len(chunk))
    except FileNotFoundError as error:
        raise FeatureError([f"{source}: expected {size} bytes, got no file"]) from error
    if (copied := partial.stat().st_size) != size:
        raise FeatureError([f"{source}: expected {size} bytes, got {copied}"])
    partial.replace(target)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
