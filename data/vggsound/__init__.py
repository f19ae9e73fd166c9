"""VGGSound: the published list as entries; README.md beside this file has counts, flaws and commands."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from scav_jax.features.checks import FeatureError
from scav_jax.features.clips import Clip
from scav_jax.features.official import LENGTH_S, Entry, Official, video_problem

NAME = "vggsound"
_SPLITS = ("train", "test")
_VAL_SHARE = 0.02  # of the training videos


def read(paths: Sequence[Path]) -> Official:
    """vggsound.csv: video id, start in seconds, label, split; no header. FeatureError: not such a file at all.

    The key is (video, start): several clips are of one video. A row that says the same again counts once; one that
    says something else of the same key is refused, and so is a row whose id, start or split cannot be.
    """
    entries: dict[str, Entry] = {}
    refused, repeated = [], 0
    for path in paths:
        for line, row in _rows(path):
            entry, problem = _entry(row)
            if entry is not None and entries.get(entry.id, entry) != entry:
                problem = f"expected one label and split for {entry.video} at {entry.start_s} s, got others before"
            if entry is None or problem:
                refused.append(f"{path}: line {line}: {problem}")
                continue
            repeated += entry.id in entries
            entries[entry.id] = entry
    return Official(NAME, entries, refused, repeated, stems, lambda clip_id: clip_id, split_clips)


def stems(entry: Entry) -> Sequence[str]:
    """Names under which mirrors and download scripts keep a clip."""
    video, start_s = entry.video, entry.start_s or 0
    end_s = start_s + int(LENGTH_S)
    return (
        f"{video}_{start_s:06d}",
        f"{video}_{1000 * start_s}_{1000 * end_s}",
        f"{video}_{start_s}_{end_s}",
        f"{video}_{start_s}",
        video,
    )


def split_clips(clips: Iterable[Clip]) -> list[Clip]:
    """The published splits, of whose training videos 2 % are for validation (our choice), by sha256 of the video."""

    def held_out(video: str) -> bool:
        return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8]) / 2**64 < _VAL_SHARE

    return [replace(c, split="val") if c.split == "train" and held_out(c.group) else c for c in clips]


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise FeatureError([f"{path}: expected a .csv in UTF-8: {error}"]) from error
    if not rows:
        raise FeatureError([f"{path}: expected rows of video id, start, label, split, got none"])
    return rows


def _entry(row: list[str]) -> tuple[Entry | None, str | None]:
    if len(row) != 4:
        return None, f"expected video id, start, label, split, got {len(row)} cells"
    video, start, label, split = row
    if problem := video_problem(video):
        return None, problem
    if not (start.isascii() and start.isdigit() and len(start) <= 6):
        return None, f"expected a start in whole seconds, got {start!r}"
    if split not in _SPLITS:
        return None, f"expected a split of {', '.join(_SPLITS)}, got {split!r}"
    return Entry(f"{video}_{int(start):06d}", video, int(start), label, split), None
