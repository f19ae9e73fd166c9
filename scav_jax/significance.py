"""Intervals of R@1 and of its differences, over groups of related clips and over seeds, from the ranks of eval.py."""

import io
import itertools
import json
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scav_jax.files import AnyPath
from scav_jax.metrics import bootstrap_interval, paired_p_value
from scav_jax.results import DIRECTION_NAMES, Intervals, Key


class Hits(NamedTuple):
    """100 where the right clip came first, else 0: (S, Q) for S seeds; the queries' groups (Q,)."""

    hits: np.ndarray
    groups: np.ndarray


class _Stored(NamedTuple):
    """What eval.py kept of a run: ranks (Q,) by (mode, distance, direction, subset, k), and facts of the split's clips.

    families: related clips share one.
    """

    method: str
    trained_with: str
    ids: np.ndarray
    families: np.ndarray
    subsets: np.ndarray
    ranks: dict[tuple, np.ndarray]

    def members(self, subset: str) -> np.ndarray:
        """(clips,) bool"""
        return (self.subsets == subset) | (subset == "all")


def _read(run: AnyPath) -> _Stored:
    protocol = json.loads((run / "eval" / "metrics.json").read_text())["protocol"]
    with np.load(io.BytesIO((run / "eval" / "ranks.npz").read_bytes())) as stored:
        arrays = dict(stored)
    ids, groups, subsets = (arrays.pop(name) for name in ("ids", "groups", "subsets"))
    cell = operator.itemgetter("mode", "distance", "direction", "subset", "k")
    ranks = {cell(json.loads(name)): arrays[name] for name in sorted(arrays)}
    return _Stored(
        protocol["method"], protocol["trained_with"], ids, np.where(groups == "", ids, groups), subsets, ranks
    )


def load_hits(runs: Sequence[AnyPath]) -> dict[Key, Hits]:
    """Every ranking of the runs' RUN/eval/ranks.npz, the seeds of a method stacked."""
    found: dict[Key, list[np.ndarray]] = {}
    families: dict[Key, np.ndarray] = {}
    for stored in map(_read, runs):
        for (*how, subset, k), ranks in stored.ranks.items():
            key: Key = (stored.method, stored.trained_with, *how, subset, k)
            found.setdefault(key, []).append(100.0 * (ranks == 1))
            families[key] = stored.families[stored.members(subset)]
    return {key: Hits(np.stack(hits), families[key]) for key, hits in found.items()}


class Paired(NamedTuple):
    """Two runs on the same queries of a subset, each by its own retrieval, both directions together.

    gained, lost: queries that only the second, only the first run gets right. gain: the second's R@1 less the first's,
    in percent, with its interval; p: see metrics.paired_p_value.
    """

    subset: str
    queries: int
    gained: int
    lost: int
    gain: float
    low: float
    high: float
    p: float


class Moved(NamedTuple):
    """A query whose right clip changed its rank between two runs."""

    id: str
    direction: str
    first: int
    second: int


def paired(first: AnyPath, second: AnyPath) -> list[Paired]:
    """Wins and losses of the second run against the first, a subset at a time.

    ValueError where the runs ranked other clips, or lack the rankings that are their own.
    """
    before, after = _own_ranks(first), _own_ranks(second)
    found = []
    for subset, (ids, groups, ranks) in before.items():
        if subset not in after or list(after[subset][0]) != list(ids):
            raise ValueError(f"{second}: expected the queries of {first} in subset {subset}, got others")
        right = [side == 1 for side in (ranks, after[subset][2])]
        hits = [100.0 * side.mean(axis=0)[None] for side in right]
        interval = bootstrap_interval(hits[1] - hits[0], groups)
        gain = float((hits[1] - hits[0]).mean())
        counts = ranks.size, int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
        found.append(Paired(subset, *counts, gain, *interval, paired_p_value(hits[1], hits[0], groups)))
    return found


def moved(first: AnyPath, second: AnyPath, count: int = 5) -> tuple[list[Moved], list[Moved]]:
    """The queries that the second run ranks better, and those it ranks worse, by the most (ratio of ranks)."""
    ids, _, before = _own_ranks(first)["all"]
    after = _own_ranks(second)["all"][2]
    ratio = np.log(before) - np.log(after)
    order = np.argsort(ratio, axis=None, kind="stable")

    def at(place):
        direction, query = np.unravel_index(place, ratio.shape)
        names = list(DIRECTION_NAMES)
        return Moved(str(ids[query]), names[direction], int(before[direction, query]), int(after[direction, query]))

    better = [at(place) for place in order[::-1][:count] if ratio.flat[place] > 0]
    return better, [at(place) for place in order[:count] if ratio.flat[place] < 0]


def paired_table(first: AnyPath, second: AnyPath) -> str:
    """`paired` as text."""
    lines = [f"{second.name} against {first.name}: R@1 gained in percent [95 % interval], queries gained and lost, p"]
    for row in paired(first, second):
        interval = f"{row.gain:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        lines.append(f"{row.subset:<10} {interval:<22} +{row.gained} -{row.lost} of {row.queries}  p = {row.p:.4f}")
    return "\n".join(lines)


def _own_ranks(run: AnyPath) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """subset -> (ids (Q,), families (Q,), ranks (directions, Q)) by the run's own retrieval."""
    stored = _read(run)
    own = ("aggregate" if stored.method == "cav" else "sequence", stored.trained_with)
    found: dict[str, dict[str, np.ndarray]] = {}
    for (mode, distance, direction, subset, k), ranks in stored.ranks.items():
        if (mode, distance) == own and k is None:
            found.setdefault(subset, {})[direction] = ranks
    if not found:
        raise ValueError(f"{run}: expected {own[0]} retrieval by {own[1]}, got no such ranking")
    result = {}
    for subset in sorted(found, key=lambda name: (name != "all", name)):
        if set(found[subset]) != set(DIRECTION_NAMES):
            raise ValueError(
                f"{run}: expected {own[0]} retrieval by {own[1]} in both directions, got {set(found[subset])}"
            )
        members = stored.members(subset)
        ranks = np.stack([found[subset][direction] for direction in DIRECTION_NAMES])
        result[subset] = stored.ids[members], stored.families[members], ranks
    return result


def intervals(hits: dict[Key, Hits]) -> Intervals:
    """95 % interval of R@1 in percent of every ranking."""
    return {key: bootstrap_interval(*value) for key, value in hits.items()}


def differences(hits: dict[Key, Hits]) -> dict[tuple[str, str, str], tuple[float, float, float]]:
    """(trained_with, trained_with, subset) -> R@1 of the first less that of the second: mean, low, high.

    Each by its own retrieval (CAV aggregate, SCAV sequence by the distance trained with), mean of both directions,
    paired by query. An interval that holds 0 means: on this gallery and these seeds the two do not differ.
    """
    own: dict[tuple[str, str], Hits] = {}
    for (method, trained_with, mode, distance, _, subset, _), value in hits.items():
        if mode == ("aggregate" if method == "cav" else "sequence") and distance == trained_with:
            before = own.get((trained_with, subset))
            share = value.hits / len(DIRECTION_NAMES)
            own[trained_with, subset] = Hits(share if before is None else before.hits + share, value.groups)
    names, subsets = (list(dict.fromkeys(column)) for column in zip(*own, strict=True))
    result = {}
    for first, second in itertools.combinations(names, 2):
        for subset in subsets:
            gain = own[first, subset].hits - own[second, subset].hits
            result[first, second, subset] = (gain.mean(), *bootstrap_interval(gain, own[first, subset].groups))
    return result
