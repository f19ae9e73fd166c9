"""Encoded clips of both sides on disk: written once, mapped into memory, appended to, checked by digest.

INDEX/index.json               sizes, digests of every block that was appended, and what the caller says about it
INDEX/{x,y}.frames             float32 (clips, length, width), padded
INDEX/{x,y}.lengths            int32 (clips,), valid frames
INDEX/clips.jsonl              a line a clip: id and label

Only what index.json counts is there: an append that was cut short leaves bytes behind that the next one overwrites.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from scav_jax import files
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.search import Found, Searcher

VERSION = 1
SIDES = ("x", "y")
CLIPS = "clips.jsonl"


@dataclass(frozen=True)
class Index:
    """A loaded index: both sides mapped, not read, and the clips' ids and labels ("" for none)."""

    path: Path
    x: Clips
    y: Clips
    ids: list[str]
    labels: list[str]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def positions(self) -> dict[str, int]:
        """id -> row."""
        return {clip_id: row for row, clip_id in enumerate(self.ids)}

    def rows(
        self, *, ids: Iterable[str] | None = None, labels: Iterable[str] | None = None
    ) -> Int[np.ndarray, " some"]:
        """Ascending rows of the clips with one of these ids and one of these labels (None: any).

        ValueError naming an id or a label that no clip has, or where none is left.
        """
        chosen = np.ones(len(self), bool)
        for field, wanted, present in (("id", ids, self.ids), ("label", labels, self.labels)):
            if wanted is None:
                continue
            wanted = set(wanted)
            if missing := sorted(wanted.difference(present)):
                raise ValueError(f"{self.path}: expected {field}s of the index, got {missing[0]!r}")
            chosen &= np.fromiter((value in wanted for value in present), bool, len(self))
        if not chosen.any():
            raise ValueError(f"{self.path}: expected clips to search in, no clip has one of the ids and of the labels")
        return np.flatnonzero(chosen)

    def searcher(
        self, name: str, *, queries_are: str = "x", rows: np.ndarray | None = None, **settings: Any
    ) -> Searcher:
        """For many searches; `rows` restricts the gallery, whose clips are then read into memory."""
        gallery = self.y if queries_are == "x" else self.x
        return Searcher(name, gallery if rows is None else gallery[rows], queries_are=queries_are, **settings)

    def search(
        self,
        queries: Clips,
        k: int,
        *,
        distance: str = "euclidean",
        mode: str = "exact",
        queries_are: str = "x",
        ids: Iterable[str] | None = None,
        labels: Iterable[str] | None = None,
        candidates: int = 50,
        progress: bool = False,
        **settings: Any,
    ) -> Found:
        """The k nearest clips, as rows of the index; arguments as of `search.search`, filters as of `rows`."""
        rows = None if ids is None and labels is None else self.rows(ids=ids, labels=labels)
        settings = {"batch_size": max(1, min(64, len(queries)))} | settings
        searcher = self.searcher(distance, queries_are=queries_are, rows=rows, **settings)
        found = searcher.search(queries, k, mode=mode, candidates=candidates, progress=progress)
        return found if rows is None else found.among(rows)


def build(
    path: str | Path,
    x: Clips,
    y: Clips,
    ids: Sequence[str],
    labels: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """A new index of these clips; `about` is kept and given back as it is (JSON). More are appended with `append`.

    ValueError where there is an index already, and as in `append`.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with files.alone_in(path):
        if (path / "index.json").exists():
            raise ValueError(f"{path}: expected a new folder, found an index; append to it, or delete it")
        shapes = {side: clips.sequences.shape[1:] for side, clips in zip(SIDES, (x, y), strict=True)}
        empty = {"version": VERSION, "shapes": shapes, "about": dict(about or {}), "blocks": []}
        _append(path, empty, x, y, ids, labels)


def append(path: str | Path, x: Clips, y: Clips, ids: Sequence[str], labels: Sequence[str] | None = None) -> None:
    """More clips at the end; shorter ones are padded. Killed at any time, it has been whole or not at all.

    ValueError: sides that differ in number, another width or longer clips than the index holds, an id twice, a number
    that is not finite.
    """
    path = Path(path)
    with files.alone_in(path):
        _append(path, _read(path), x, y, ids, labels)


def load(path: str | Path, *, verify: bool = True) -> Index:
    """The index at `path`, mapped. `verify` reads all of it once and compares its digests.

    ValueError naming the file: missing, too short, or, if verified, changed since it was written.
    """
    path = Path(path)
    facts = _read(path)
    sizes = _sizes(facts)
    for name, size in sizes.items():
        held = (path / name).stat().st_size if (path / name).is_file() else None
        if held is None or held < size:
            raise ValueError(f"{path / name}: expected {size} bytes, got {'no file' if held is None else held}")
        if verify:
            _verify(path / name, facts)
    lines = [json.loads(line) for line in _head(path / CLIPS, sizes[CLIPS]).splitlines()]
    x, y = (_side(path, side, facts["shapes"][side], len(lines)) for side in SIDES)
    return Index(path, x, y, [line["id"] for line in lines], [line["label"] for line in lines], facts["about"])


def _append(path, facts, x, y, ids, labels):
    labels = [""] * len(ids) if labels is None else labels
    if not len(x) == len(y) == len(ids) == len(labels) > 0:
        counts = f"{len(x)} of x, {len(y)} of y, {len(ids)} ids, {len(labels)} labels"
        raise ValueError(f"{path}: expected as many of each, at least one, got {counts}")
    sizes = _sizes(facts)
    known = {json.loads(line)["id"] for line in _head(path / CLIPS, sizes[CLIPS]).splitlines()}
    for clip_id in ids:
        if clip_id in known:
            raise ValueError(f"{path}: expected ids of their own, got {clip_id!r} twice")
        known.add(clip_id)
    lines = (json.dumps({"id": clip_id, "label": label}) + "\n" for clip_id, label in zip(ids, labels, strict=True))
    content = {CLIPS: "".join(lines).encode()}
    for side, clips in zip(SIDES, (x, y), strict=True):
        content[f"{side}.frames"], content[f"{side}.lengths"] = _bytes(path, side, clips, facts["shapes"][side], ids)
    for name, new in content.items():
        with open(path / name, "r+b" if (path / name).exists() else "w+b") as file:
            file.truncate(sizes[name])
            file.seek(sizes[name])
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
    digests = {name: hashlib.sha256(new).hexdigest() for name, new in content.items()}
    block = {"clips": len(ids), "bytes": {name: len(new) for name, new in content.items()}, "sha256": digests}
    files.write_whole(path / "index.json", json.dumps({**facts, "blocks": [*facts["blocks"], block]}, indent=1))


def _bytes(path, side, clips, shape, ids):
    """Frames and lengths as the files hold them."""
    length, width = shape
    count, own_length, own_width = clips.sequences.shape
    if own_width != width or own_length > length:
        expected = f"at most {length} frames of width {width}"
        raise ValueError(f"{path}: {side}: expected {expected}, got {own_length} of width {own_width}")
    mask = clips.valid
    frames = np.zeros((count, length, width), "<f4")
    frames[:, :own_length] = np.where(mask[:, :, None], clips.sequences, 0)
    finite = np.isfinite(frames).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"{path}: {side}: expected finite numbers, clip {ids[int(np.argmin(finite))]!r} has others")
    return frames.tobytes(), mask.sum(axis=1).astype("<i4").tobytes()


def _read(path):
    try:
        facts = json.loads((path / "index.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: expected an index, found no index.json") from None
    except ValueError as error:
        raise ValueError(f"{path / 'index.json'}: expected JSON, got {error}") from error
    if facts.get("version") != VERSION:
        raise ValueError(f"{path / 'index.json'}: expected version {VERSION}, got {facts.get('version')!r}")
    return facts


def _sizes(facts) -> dict[str, int]:
    """Bytes of each file that count."""
    names = [CLIPS, *(f"{side}.{part}" for side in SIDES for part in ("frames", "lengths"))]
    return {name: sum(block["bytes"][name] for block in facts["blocks"]) for name in names}


def _head(path, size):
    """The first `size` bytes of a text."""
    if not size:
        return ""
    with open(path, "rb") as file:
        return file.read(size).decode()


def _verify(path, facts):
    first = 0
    with open(path, "rb") as file:
        for block in facts["blocks"]:
            digest, left = hashlib.sha256(), block["bytes"][path.name]
            while left:
                part = file.read(min(left, 2**24))
                digest.update(part)
                left -= len(part)
            last = first + block["clips"] - 1
            if digest.hexdigest() != block["sha256"][path.name]:
                raise ValueError(f"{path}: clips {first} to {last} are not what was written: their SHA-256 differs")
            first = last + 1


def _side(path, side, shape, count):
    lengths = np.fromfile(path / f"{side}.lengths", "<i4", count)
    frames = np.memmap(path / f"{side}.frames", "<f4", "r", shape=(count, *shape))
    full = (lengths == shape[0]).all()
    return Clips(frames, None if full else np.arange(shape[0]) < lengths[:, None])
