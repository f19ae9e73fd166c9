"""Intervals of R@1 and of its differences, over groups of related clips and over seeds, from the ranks of eval.py."""

import io
import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scav_jax.files import AnyPath
from scav_jax.metrics import bootstrap_interval
from scav_jax.results import DIRECTION_NAMES, Intervals, Key


class Hits(NamedTuple):
    """100 where the right clip came first, else 0: (S, Q) for S seeds; the queries' groups (Q,)."""

    hits: np.ndarray
    groups: np.ndarray


def load_hits(runs: Sequence[AnyPath]) -> dict[Key, Hits]:
    """Every ranking of the runs' RUN/eval/ranks.npz, the seeds of a method stacked."""
    found: dict[Key, list[np.ndarray]] = {}
    groups: dict[Key, np.ndarray] = {}
    for run in runs:
        protocol = json.loads((run / "eval" / "metrics.json").read_text())["protocol"]
        with np.load(io.BytesIO((run / "eval" / "ranks.npz").read_bytes())) as stored:
            labels = np.where(stored["groups"] == "", stored["ids"], stored["groups"])
            for name in sorted(set(stored.files) - {"ids", "groups", "subsets"}):
                ranking = json.loads(name)
                cell = (ranking[field] for field in ("mode", "distance", "direction", "subset", "k"))
                key: Key = (protocol["method"], protocol["trained_with"], *cell)
                members = slice(None) if ranking["subset"] == "all" else stored["subsets"] == ranking["subset"]
                found.setdefault(key, []).append(100.0 * (stored[name] == 1))
                groups[key] = labels[members]
    return {key: Hits(np.stack(hits), groups[key]) for key, hits in found.items()}


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
