"""Data sets that are published as a list of videos, for whoever has the videos: list -> extraction -> store, with
coverage and health of what came through.

A data set gives its entries (data/vggsound, data/music) and which files may hold one; the rest is here.
"""

import argparse
import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scav_jax import files
from scav_jax.features.checks import FeatureError, report
from scav_jax.features.clips import Clip, ids_sha256
from scav_jax.features.extract import read_record
from scav_jax.features.folders import NpzFolder
from scav_jax.features.listing import SUFFIXES
from scav_jax.features.media import MediaError, probe
from scav_jax.features.plan import describe_plan, plan_store
from scav_jax.features.store import write_store

LENGTH_S = 10.0  # of a clip
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Entry:
    """One published clip: its id here, its video's, where it starts in that (None: the video is cut), its class."""

    id: str
    video: str
    start_s: int | None
    label: str
    split: str


@dataclass(frozen=True)
class Official:
    """What a list says: its entries by id, the rows that cannot be used, and how many say again what another said."""

    name: str
    entries: dict[str, Entry]
    refused: list[str]
    repeated: int
    # Stems of files that may hold a clip, the best first. Of the last one, the video's own id, the clip is a part.
    stems: Callable[[Entry], Sequence[str]]
    # The entry that a folder's features belong to: its own, or that of the video it was cut from.
    entry_of: Callable[[str], str]
    # The split of each clip, by its entry.
    split_clips: Callable[[Iterable[Clip]], list[Clip]]


def video_problem(video: str) -> str | None:
    """What makes an id no video's, or None."""
    return None if _VIDEO_ID.fullmatch(video) else f"expected a video id of letters, digits, _ and -, got {video!r}"


def find_media(official: Official, media: str | Path) -> dict[str, tuple[Path, float]]:
    """The file of every entry that has one below `media`, and where in it the clip starts, in seconds."""
    folder = Path(media)
    if not folder.is_dir():
        raise ValueError(f"media: expected a folder, got {folder}")
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            by_stem.setdefault(path.stem, path)
    found = {}
    for entry in official.entries.values():
        for stem in official.stems(entry):
            if stem in by_stem:
                found[entry.id] = by_stem[stem], _start_s(entry, by_stem[stem])
                break
    return found


def _start_s(entry: Entry, path: Path) -> float:
    """A file named by its video alone holds all of it, unless it is no longer than a clip."""
    if not entry.start_s or path.stem != entry.video:
        return 0.0
    try:
        return float(entry.start_s) if probe(path).duration_s > 1.05 * LENGTH_S else 0.0
    except MediaError:  # the extraction will say what is wrong with it
        return 0.0


def write_list(official: Official, media: str | Path, out: str | Path) -> str:
    """Writes the .csv that extraction takes, and returns a line of what was found and what was not."""
    found = find_media(official, media)
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["file", "id", "start_s"])
    writer.writerows((path.absolute(), clip_id, f"{start_s:g}") for clip_id, (path, start_s) in found.items())
    files.write_whole(Path(out), content.getvalue())
    return (
        f"{official.name}: {len(official.entries)} clips published, {len(found)} found, "
        f"{len(official.entries) - len(found)} without a file ({official.repeated} rows twice, "
        f"{len(official.refused)} refused): {out}"
    )


def plan(official: Official, features: str | Path, media: str | Path | None = None) -> Any:
    """The plan of a store of all features that the list knows; FeatureError names features that it does not."""
    ids = NpzFolder(features).ids
    entries = {clip_id: official.entries.get(official.entry_of(clip_id)) for clip_id in ids}
    if strangers := [clip_id for clip_id, entry in entries.items() if entry is None]:
        raise FeatureError([f"{features}/{clip_id}.npz: expected a clip of {official.name}" for clip_id in strangers])
    clips = official.split_clips(
        Clip(clip_id, entry.split, entry.label, entry.video) for clip_id, entry in entries.items() if entry is not None
    )
    facts = {"coverage": coverage(official, ids, features)}
    return plan_store(features, clips, name=official.name, media=media, facts=facts, progress=True)


def coverage(official: Official, ids: Sequence[str], features: str | Path) -> dict[str, Any]:
    """How much of the list is there: entries by published split, of each those with features; the list's hash."""
    present = {official.entry_of(clip_id) for clip_id in ids}
    published = Counter(entry.split for entry in official.entries.values())
    have = Counter(official.entries[clip_id].split for clip_id in present)
    skipped = {official.entry_of(clip_id) for clip_id in _skipped(features)} - present
    return {
        "published": len(official.entries),
        "present": len(present),
        "skipped": len(skipped & official.entries.keys()),
        "by_split": {split: {"published": count, "present": have[split]} for split, count in published.items()},
        "refused_rows": len(official.refused),
        "repeated_rows": official.repeated,
        "list_sha256": ids_sha256(sorted(official.entries)),
    }


def _skipped(features: str | Path) -> set[str]:
    """Ids of clips that extraction had to leave out."""
    ids: set[str] = set()
    for path in Path(features).glob("skipped*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            ids |= {row["id"] for row in csv.DictReader(file)}
    return ids


def describe(covered: Mapping[str, Any]) -> str:
    """A line of text of a store's coverage."""
    share = 100 * covered["present"] / max(1, covered["published"])
    return (
        f"{covered['present']} of {covered['published']} published clips ({share:.1f} %), "
        f"{covered['skipped']} could not be read"
    )


def main(name: str, read: Callable[..., Official], list_flag: str, arguments: Sequence[str] | None = None) -> int:
    """The command of a data set: `list` writes what to extract, `pack` makes a store of what was extracted."""
    parser = argparse.ArgumentParser(
        prog=f"python -m data.{name}", description="Lists what to extract, packs what was extracted."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="which files to extract, as a .csv for scav_jax.features.extract")
    packing = commands.add_parser("pack", help="features -> store for train.py --config.data.store=STORE")
    for command in (listing, packing):
        command.add_argument(f"--{list_flag}", required=True, nargs="+", dest="lists", help="the published list")
        command.add_argument("--out", required=True)
        command.add_argument("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used")
        command.add_argument("--media", required=command is listing, help="folder of the videos, with subfolders")
    packing.add_argument("--features", required=True, help="folder that scav_jax.features.extract wrote")
    packing.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    options = parser.parse_args(arguments)
    try:
        official = read([Path(path) for path in options.lists])
        for problem in official.refused:
            print(f"{'refused' if options.skip_bad_rows else 'error'}: {problem}", file=sys.stderr)
        if official.refused and not options.skip_bad_rows:
            return 1
        if options.command == "list":
            print(write_list(official, options.media, options.out))
            return 0
        if Path(options.out).exists():
            raise ValueError(f"--out: expected a new folder, {options.out} is there already")
        if read_record(options.features) is None:
            raise ValueError(f"{options.features}: expected the folder of an extraction, it has no extraction.json")
        planned = plan(official, options.features, options.media)
        print(describe_plan(planned))
        print(describe(planned.ledger["coverage"]))
        if not options.dry_run:
            write_store(planned, options.out)
            print(f"wrote {options.out}")
    except (ValueError, OSError) as error:
        return report(error)
    return 0
