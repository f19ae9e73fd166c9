"""Retrieval of a trained model on a split: encode its clips, rank each subset's gallery, score with intervals.

train.py calls it on the validation split while training, eval.py on the test split afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scav_jax import distances, parallel, training
from scav_jax.all_pairs import DIRECTIONS, AllPairs, Encoded
from scav_jax.config import trained_with
from scav_jax.features.pipeline import Batch, eval_batches
from scav_jax.features.store import Facts, Store
from scav_jax.metrics import average_precision, bootstrap_interval, ranks, retrieval_metrics
from scav_jax.protocol import ALL, subsets
from scav_jax.retrieval import order_free
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.ranking import hybrid_distances
from scav_jax.retrieval.search import MODES

Encoder = Callable[[dict[str, Any], dict[str, Any]], dict[str, tuple]]


@dataclass(frozen=True)
class Asked:
    """Which rankings: every combination. No distances: the config's own. "maxsim" and "chamfer" know no order.

    No subsets: all. A subset is a gallery and its queries.
    """

    modes: Sequence[str] = MODES[:3]
    distances: Sequence[str] = ()
    directions: Sequence[str] = DIRECTIONS
    hybrid_k: Sequence[int] = ()
    subsets: Sequence[str] = ()

    def galleries(self, facts: Facts) -> dict[str, np.ndarray]:
        """The positions of each subset's clips."""
        return {name: members for name, members in subsets(facts).items() if name in (self.subsets or (name,))}


@dataclass(frozen=True)
class Ranking:
    """One gallery ranked in one way: smaller = closer, the clip of query i is column i.

    Of an exact ranking the distances that were proven larger than that of the right clip are inf.
    """

    mode: str
    distance: str
    direction: str
    subset: str
    k: int | None
    members: np.ndarray  # (Q,) positions of the gallery's clips in the split
    distances: np.ndarray  # (Q, Q)

    def key(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "distance": self.distance,
            "direction": self.direction,
            "subset": self.subset,
            "k": self.k,
        }


def make_encoder(config: Any, mesh: Mesh) -> Encoder:
    """One compiled function for all batches: (parameters, features and masks) -> encoded modalities, both spread."""

    def encode(parameters, batch, axis_name=None):
        return training.encode(config, parameters["towers"], batch)

    return jax.jit(parallel.on_every_device(encode, mesh, results_are_spread=True))


def check_store(config: Any, store: Store) -> None:
    """Raises ValueError where a store's features are not of the kind that the config's towers were made for."""
    for name, tower in config.model.items():
        entry = store.ledger["modalities"].get(name)
        expected = (tower.feature_width, tower.rate_hz)
        if entry is None or (entry["width"], entry["rate_hz"]) != expected:
            got = "none" if entry is None else f"{entry['width']} at {entry['rate_hz']:g} Hz"
            raise ValueError(
                f"{store.path}: expected {name} features of width {expected[0]} at {expected[1]:g} Hz, got {got}"
            )


def encode_split(
    config: Any,
    encoder: Encoder,
    mesh: Mesh,
    parameters: dict[str, Any],
    store: Store,
    split: str,
    *,
    members: np.ndarray | None = None,
    change: Callable[[Batch], Batch] = lambda batch: batch,
) -> Encoded:
    """Each modality's sequences and mask of the split's clips (`members`: of some), in every host's memory.

    change: what is done to the features of a batch first.
    """
    chunks = []
    size = min(config.eval.batch_size, len(store.split(split)) if members is None else len(members))
    for batch in eval_batches(store, split, size + -size % mesh.size, members):
        features = {key: value for key, value in change(batch).items() if key not in ("index", "valid")}
        encoded = parallel.gather(encoder(parameters, parallel.spread_whole(features, mesh)))
        chunks.append(jax.tree.map(lambda leaf, valid=batch["valid"]: leaf[:valid], encoded))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


def rank(pairs: AllPairs, facts: Facts, asked: Asked) -> Iterator[Ranking]:
    """Every subset, direction, mode and distance asked for. A subset restricts queries and gallery to its clips."""
    names = tuple(asked.distances) or (pairs.config.distance.name,)
    for subset, members in asked.galleries(facts).items():
        for direction in asked.directions:
            if "aggregate" in asked.modes:
                near = pairs.matrix("cosine", direction, members)
                yield Ranking("aggregate", "cosine", direction, subset, None, members, near)
            for name in names:
                if "sequence" in asked.modes:
                    found = pairs.matrix(name, direction, members)
                    yield Ranking("sequence", name, direction, subset, None, members, found)
                for k in asked.hybrid_k if "hybrid" in asked.modes else ():
                    near, found = (pairs.matrix(one, direction, members) for one in ("cosine", name))
                    yield Ranking("hybrid", name, direction, subset, k, members, hybrid_distances(near, found, k))
                if "exact" in asked.modes and name not in order_free.NAMES:
                    finder = pairs.searcher(name, direction, members)
                    found, _ = finder.until_found(pairs.queries(direction, members), np.arange(len(members)))
                    yield Ranking("exact", name, direction, subset, None, members, found)


def score(ranking: Ranking, facts: Facts) -> dict[str, Any]:
    """One row of metrics.json: recalls in percent, R@1 with its interval, with labels mAP of clips of one class."""
    groups = facts.families[ranking.members]
    hits = 100.0 * (ranks(ranking.distances) == 1)
    low, high = bootstrap_interval(hits[None], groups)
    metrics = retrieval_metrics(ranking.distances)
    # The two sums round apart: no interval is to miss its own mean by a last digit.
    interval = {"R@1_low": min(low, metrics["R@1"]), "R@1_high": max(high, metrics["R@1"])}
    labels = facts.labels[ranking.members]
    if ranking.mode != "exact" and (labels != "").all():
        precision = average_precision(ranking.distances, labels[:, None] == labels[None])
        metrics["mAP"] = 100 * float(precision.mean())
    return {**ranking.key(), **metrics, **interval}


def quick_metrics(config: Any, encoded: Encoded, mesh: Mesh, facts: Facts) -> dict[str, float]:
    """The training log's evaluation: the whole split, ranked the way the method is meant to rank."""
    mode = "aggregate" if config.method == "cav" else "sequence"
    whole = replace(facts, subsets=np.full(len(facts.ids), ""))
    rankings = list(rank(AllPairs(config, mesh, encoded), whole, Asked(tuple(dict.fromkeys(("aggregate", mode))))))
    metrics: dict[str, float] = {}
    for ranking in rankings:
        if ranking.mode == mode:
            scores = retrieval_metrics(ranking.distances)
            metrics |= {f"eval_{ranking.direction}_{key}": value for key, value in scores.items()}
    if trained_with(config) == "wasserstein":
        metrics["eval_marginal_error"] = marginal_error(config, encoded)
    return metrics | sequence_gain(config, rankings, facts)


def sequence_gain(config: Any, rankings: Sequence[Ranking], facts: Facts) -> dict[str, float]:
    """R@1 by sequence less R@1 by aggregate, in percent, and its interval: the whole split, mean of the directions.

    By the distance trained with, paired by query. Nothing for CAV, which is not meant to gain, and where one of the two
    modes was not ranked.
    """
    hits = {
        name: [100.0 * (ranks(found.distances) == 1) for found in rankings if _is(found, mode, name)]
        for mode, name in (("sequence", config.distance.name), ("aggregate", "cosine"))
    }
    by_sequence, by_aggregate = hits.values()
    if config.method == "cav" or not by_sequence or not by_aggregate:
        return {}
    gain = np.mean(by_sequence, axis=0) - np.mean(by_aggregate, axis=0)
    low, high = bootstrap_interval(gain[None], facts.families)
    key = "eval_sequence_gain"
    return {key: float(gain.mean()), f"{key}_low": low, f"{key}_high": high}


def _is(ranking: Ranking, mode: str, distance: str) -> bool:
    return (ranking.subset, ranking.mode, ranking.distance) == (ALL, mode, distance)


def alignments(config: Any, encoded: Encoded, name: str, query: int, others: np.ndarray) -> list[list[list[int]]]:
    """How a distance lays clip `query` of x over others of y: (n, m) each, 0 to 99, valid frames only; cosine has none.

    For pictures: see `distances.alignment`.
    """
    if name == "cosine" or name in order_free.NAMES:
        return []
    options = distances.options(name, config.distance)
    x, y = (Clips(*encoded[side]) for side in config.pairs[0])
    found = []
    for other in others:
        frames, frames_mask = (jnp.asarray(part[query]) for part in (x.sequences, x.valid))
        steps, steps_mask = (jnp.asarray(part[other]) for part in (y.sequences, y.valid))
        matrix = np.asarray(distances.alignment(name, frames, steps, frames_mask, steps_mask, **options))
        matrix = matrix[: int(frames_mask.sum()), : int(steps_mask.sum())]
        found.append(np.rint(99 * matrix / max(matrix.max(), 1e-12)).astype(int).tolist())
    return found


def marginal_error(config: Any, encoded: Encoded, clips: int = 32) -> float:
    """The worst marginal error of Wasserstein's plans among the first `clips` clips: have the iterations converged?"""
    options = distances.options("wasserstein", config.distance)
    (x, x_mask), (y, y_mask) = (
        jax.tree.map(lambda leaf: jnp.asarray(leaf[:clips]), encoded[name]) for name in config.pairs[0]
    )
    return float(distances.marginal_error(x, y, x_mask, y_mask, **options))
