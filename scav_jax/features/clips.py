"""A clip's facts: its id, split, label, group and subset; their table (clips.csv); a split where none is given."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from scav_jax.features.checks import FeatureError, read_table

SPLITS = ("train", "val", "test")
SPLIT_RULE = "by sha256 of the group (of the id without one): 80 % train, 10 % val, 10 % test, at least one group each"


@dataclass(frozen=True)
class Clip:
    """`group`: related clips share it ("" = none); `subset`: a named part of a split ("" = none)."""

    id: str
    split: str
    label: str = ""
    group: str = ""
    subset: str = ""


COLUMNS = tuple(column.name for column in fields(Clip))


def read_clips(path: str | Path) -> list[Clip]:
    """The clips of a .csv with header id[,split][,label][,group][,subset]; FeatureError lists every bad row.

    Without a split column the clips are split by SPLIT_RULE.
    """
    path = Path(path)
    header, rows = read_table(path, COLUMNS, "id")
    problems, clips = [], dict[str, Clip]()
    for line, row in rows:
        if None in row or None in row.values():
            problems.append(f"{path}: line {line}: expected {len(header)} cells")
            continue
        clip = Clip(**{"split": SPLITS[0], **row})
        if problem := _problem(clip, clips):
            problems.append(f"{path}: line {line}: {problem}")
        clips[clip.id] = clip
    if not rows:
        problems.append(f"{path}: expected at least one clip, got none")
    if problems:
        raise FeatureError(problems)
    return list(clips.values()) if "split" in header else split_by_group(clips.values())


def write_clips(path: str | Path, clips: Iterable[Clip]) -> None:
    """The same table, as read_clips reads it."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(clip) for clip in clips)


def split_by_group(clips: Iterable[Clip]) -> list[Clip]:
    """The clips with splits by SPLIT_RULE: related clips stay together, and adding clips moves hardly any other."""
    clips = list(clips)
    share = {
        group: int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
        for group in {clip.group or clip.id for clip in clips}
    }
    ordered = sorted(share, key=lambda group: share[group])
    # Small sets may have nothing above a threshold: their last groups step in.
    num_test = max(1, sum(value >= 0.9 for value in share.values()))
    num_val = max(1, sum(0.8 <= value < 0.9 for value in share.values()))
    splits = dict.fromkeys(ordered, "train")
    splits |= dict.fromkeys(ordered[-num_test - num_val : -num_test], "val") | dict.fromkeys(
        ordered[-num_test:], "test"
    )
    return [replace(clip, split=splits[clip.group or clip.id]) for clip in clips]


def ids_sha256(ids: Sequence[str]) -> str:
    """sha256 of the ids, one a line, in order: which clips, and which order, a result is about."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def id_problem(clip_id: str) -> str | None:
    """What makes an id unsafe as a file stem, or None."""
    if clip_id in ("", ".", "..") or len(clip_id.encode()) > 200:
        return f"expected an id of 1 to 200 bytes, not a folder, got {clip_id!r}"
    if any(character in "/\\" or not character.isprintable() for character in clip_id):
        return f"expected an id without slashes and control characters, got {clip_id!r}"
    return None


def _problem(clip: Clip, others: dict[str, Clip]) -> str | None:
    if clip.id in others:
        return f"expected unique ids, got {clip.id!r} again"
    if clip.split not in SPLITS:
        return f"expected a split of {', '.join(SPLITS)}, got {clip.split!r}"
    if clip.subset == "all":
        return "expected a subset not named 'all' (results call the whole split that), got 'all'"
    return id_problem(clip.id)
