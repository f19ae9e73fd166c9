"""Which clips of a split are searched, and searched for: all, a few of each class, or a list of ids."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from scav_jax.features.store import Facts

RULES = "full, N-per-class, or a file of ids, one a line"


def choose(rule: str, facts: Facts) -> tuple[np.ndarray, dict[str, Any]]:
    """Ascending positions in the split of the clips that the rule names, and what the protocol says of it.

    N-per-class takes of each label the N clips whose ids have the smallest SHA-256: the same ones in every copy of a
    data set. Ids of a list that the split does not have are counted, not an error: videos vanish. ValueError: another
    rule, a split without labels, a file without ids of the split.
    """
    if rule == "full":
        return np.arange(len(facts.ids)), {"rule": "full"}
    if match := re.fullmatch(r"(\d+)-per-class", rule):
        return _per_class(int(match[1]), facts), {"rule": rule}
    path = Path(rule)
    if not path.is_file():
        raise ValueError(f"gallery: expected {RULES}, got {rule!r}")
    listed = list(dict.fromkeys(filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines()))))
    members = np.flatnonzero(np.isin(facts.ids, listed))
    if not len(members):
        raise ValueError(f"{path}: expected ids of the split's clips such as {str(facts.ids[0])!r}, got none of them")
    digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()
    return members, {"rule": path.name, "listed_sha256": digest, "listed": len(listed), "present": len(members)}


def evenly_spread(num_clips: int, count: int) -> np.ndarray:
    """Positions of `count` clips (all, where there are fewer) at even distances, the first and the last among them."""
    return np.linspace(0, num_clips - 1, min(count, num_clips)).round().astype(int)


def _per_class(count: int, facts: Facts) -> np.ndarray:
    if count < 1 or (facts.labels == "").any():
        missing = int((facts.labels == "").sum())
        raise ValueError(f"gallery: expected at least 1 of each class and labels, got {count} and {missing} without")
    order = sorted(range(len(facts.ids)), key=lambda row: hashlib.sha256(str(facts.ids[row]).encode()).digest())
    taken: dict[str, list[int]] = {}
    for row in order:
        taken.setdefault(str(facts.labels[row]), []).append(row)
    return np.sort([row for rows in taken.values() for row in rows[:count]])
