"""Which clips an extraction is about: files of a folder or lines of a list, whole or cut, and a host's share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scav_jax.features.checks import FeatureError, read_table
from scav_jax.features.clips import id_problem
from scav_jax.features.media import WHOLE, MediaError, Span, probe

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".3gp", ".ogv", ".ts", ".wmv")
_COLUMNS = ("file", "id", "start_s", "length_s")


@dataclass(frozen=True)
class Item:
    """One clip to be: its id, its file and which part of it."""

    id: str
    path: Path
    span: Span = WHOLE


def list_media(media: str | Path, length_s: float | None = None) -> list[Item]:
    """The clips of a folder, searched with its subfolders, or of a list; by id where it is a folder.

    A list is a .csv with header file[,id][,start_s][,length_s]: a file relative to the list's folder, the id (its stem
    where not given) and the part of it. `length_s`: at most so many seconds of each. ValueError: no media, or two clips
    of one id; FeatureError lists every bad row of a list.
    """
    media = Path(media)
    if media.is_file() and media.suffix.lower() == ".csv":
        items = _read_list(media)
    elif media.is_dir():
        items = [Item(path.stem, path) for path in _files(media)]
    else:
        raise ValueError(f"media: expected a folder, or a list in a .csv, got {media}")
    by_id: dict[str, Item] = {}
    for item in items:
        if (other := by_id.setdefault(item.id, item)) is not item:
            raise ValueError(f"media: expected one clip an id (one file a stem), got {other.path} and {item.path}")
    if length_s is None:
        return items
    return [Item(item.id, item.path, Span(item.span.start_s, _shorter(item.span.length_s, length_s))) for item in items]


def cut(items: Sequence[Item], length_s: float) -> tuple[list[Item], dict[str, str]]:
    """Every file in consecutive parts of `length_s` seconds, and why a file cannot be cut, by id.

    A part's id is that of its file, an underscore and its start in whole seconds, six digits. What is left at the end
    is dropped; a file that is shorter gives one part, all of it.
    """
    parts: list[Item] = []
    bad: dict[str, str] = {}
    for item in items:
        try:
            duration_s = probe(item.path).duration_s - item.span.start_s
        except MediaError as error:
            bad[item.id] = error.reason
            continue
        duration_s = _shorter(item.span.length_s, duration_s)
        starts_s = [item.span.start_s + index * length_s for index in range(max(1, int(duration_s / length_s + 1e-6)))]
        parts += [Item(f"{item.id}_{int(start_s):06d}", item.path, Span(start_s, length_s)) for start_s in starts_s]
    return parts, bad


def share(items: Sequence[Item], host: int, hosts: int) -> list[Item]:
    """Every `hosts`-th clip from the `host`-th on: the hosts' shares differ by at most one clip and cover all.

    ValueError: not 0 <= host < hosts.
    """
    if not 0 <= host < hosts:
        raise ValueError(f"slice: expected I/N with 0 <= I < N, got {host}/{hosts}")
    return list(items[host::hosts])


def _files(folder: Path) -> list[Path]:
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(f"media: expected files {', '.join(SUFFIXES)} below {folder}, found none")
    return paths


def _read_list(path: Path) -> list[Item]:
    header, rows = read_table(path, _COLUMNS, "file")
    items, problems = [], []
    for line, row in rows:
        if None in row or None in row.values():
            problems.append(f"{path}: line {line}: expected {len(header)} cells")
            continue
        clip_id = row.get("id") or Path(row["file"]).stem
        try:
            start_s, length_s = float(row.get("start_s") or 0), float(row.get("length_s") or "inf")
            if not (start_s >= 0 and length_s > 0 and start_s < float("inf")):
                raise ValueError
        except ValueError:
            problems.append(f"{path}: line {line}: expected seconds, got {row.get('start_s')}, {row.get('length_s')}")
            continue
        if problem := id_problem(clip_id):
            problems.append(f"{path}: line {line}: {problem}")
        span = Span(start_s, None if length_s == float("inf") else length_s)
        items.append(Item(clip_id, path.parent / row["file"], span))
    if not rows:
        problems.append(f"{path}: expected at least one clip, got none")
    if problems:
        raise FeatureError(problems)
    return items


def _shorter(a_s: float | None, b_s: float) -> float:
    return b_s if a_s is None else min(a_s, b_s)
