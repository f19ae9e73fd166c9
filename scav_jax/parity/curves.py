"""Both sides trained on the same batches: losses that overlay, and retrieval by what was learned."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scav_jax import evaluation, parallel
from scav_jax.all_pairs import AllPairs
from scav_jax.parity import convert, ours
from scav_jax.parity.problem import Problem

FLOAT64_LIMIT = 1e-6
THEIRS, OURS = "theirs", "ours"


def _next_to(start, towards):
    """Parameters, each moved by one unit in its last place."""
    return {name: np.asarray(np.nextafter(array, towards, dtype=array.dtype)) for name, array in start.items()}


# Runs that differ from ours by rounding alone: (parameters to start from, order of the clips) -> the same, changed.
OTHER_RUNS = {
    "ours, batches reversed": lambda start, order: (start, order[:, ::-1]),
    "ours, begun a last place higher": lambda start, order: (_next_to(start, np.inf), order),
    "ours, begun a last place lower": lambda start, order: (_next_to(start, -np.inf), order),
}


@dataclass
class Curve:
    """losses by who made them: "theirs", "ours", and, where rounding shows, OTHER_RUNS of ours. recall: R@1 in percent
    of theirs and ours, and half of the 95 % interval, by direction."""

    distance: str
    precision: str
    losses: dict[str, np.ndarray]
    recall: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def apart(self) -> float:
        """The largest relative difference at a step, of theirs and the run of ours that stays nearest to it."""
        return min(_apart(own, self.losses[THEIRS]) for own in self._own)

    @property
    def limit(self) -> float:
        """What two runs of ours differ by at most, for training amplifies rounding; in float64 at least 1e-6."""
        least = FLOAT64_LIMIT if self.precision == "float64" else 0.0
        return max([least, *(_apart(*pair) for pair in itertools.permutations(self._own, 2))])

    @property
    def _own(self) -> list[np.ndarray]:
        return [losses for name, losses in self.losses.items() if name != THEIRS]

    @property
    def agrees(self) -> bool:
        close = all(abs(found["theirs"] - found["ours"]) < found["half_interval"] for found in self.recall.values())
        return self.apart <= self.limit and close

    def as_dict(self) -> dict[str, Any]:
        losses = {name: values.tolist() for name, values in self.losses.items()}
        return {
            "distance": self.distance,
            "precision": self.precision,
            "apart": self.apart,
            "limit": self.limit,
            "agrees": self.agrees,
            "recall": self.recall,
            "losses": losses,
        }


def of_ours(problem: Problem, name: str, precision: str, theirs: np.ndarray) -> tuple[Curve, Any]:
    """Ours beside losses of theirs, and the parameters that ours learned."""
    like = ours.like(problem.config)
    dtype = np.float64 if precision == "float64" else np.float32
    start = {key: array.astype(dtype) for key, array in problem.start.items()}
    curve = Curve(name, precision, {THEIRS: theirs})

    def run(start, order):
        return ours.train(problem.config, convert.from_torch(start, like), problem.features, order, name, precision)

    curve.losses[OURS], learned = run(start, problem.order)
    if precision == "float32" or not curve.agrees:
        curve.losses |= {said: run(*change(start, problem.order))[0] for said, change in OTHER_RUNS.items()}
    return curve, learned


def add_recall(curve: Curve, problem: Problem, theirs: dict[str, np.ndarray], learned: Any) -> None:
    """R@1 on the test split by the parameters of either side, ranked by evaluation.py."""
    if problem.store is None:
        return
    config = ours.method(problem.config, curve.distance)
    mesh, store, split = parallel.make_mesh(), problem.store, config.data.test_split
    encoder, facts = evaluation.make_encoder(config, mesh), store.facts(split)  # compiled once for both sides
    asked = evaluation.Asked(modes=("aggregate" if config.method == "cav" else "sequence",), subsets=("all",))
    for side, parameters in (("theirs", convert.from_torch(theirs, learned)), ("ours", learned)):
        encoded = evaluation.encode_split(config, encoder, mesh, parameters, store, split)
        for ranking in evaluation.rank(AllPairs(config, mesh, encoded), facts, asked):
            row = evaluation.score(ranking, facts)
            found = curve.recall.setdefault(ranking.direction, {})
            found[side] = row["R@1"]
            found["half_interval"] = (row["R@1_high"] - row["R@1_low"]) / 2


def _apart(a, b):
    return float(np.max(np.abs(a - b) / np.abs(b)))
