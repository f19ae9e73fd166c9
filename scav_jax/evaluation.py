"""Retrieval of a trained model on a split: encode its clips, rank each subset's gallery, score with intervals.

train.py calls it on the validation split while training, eval.py on the test split afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scav_jax import distances, parallel, training
from scav_jax.config import trained_with
from scav_jax.features.clips import ids_sha256
from scav_jax.features.pipeline import eval_batches
from scav_jax.features.store import Facts, Store
from scav_jax.metrics import bootstrap_interval, ranks, retrieval_metrics
from scav_jax.retrieval.ranking import hybrid_distances

TIE_RULE = "rank = 1 + number of irrelevant clips at a distance <= that of the relevant one: a tie counts against us"
INTERVAL_RULE = "95 % percentile bootstrap, whole groups of related clips resampled"
DIRECTIONS = ("v2a", "a2v")
ALL = "all"

Encoder = Callable[[dict[str, Any], dict[str, Any]], dict[str, tuple]]


@dataclass(frozen=True)
class Ranking:
    """One gallery ranked in one way: smaller = closer, the clip of query i is column i."""

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
    config: Any, encoder: Encoder, mesh: Mesh, parameters: dict[str, Any], store: Store, split: str
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Each modality's (sequences (G, length, d), mask) of a whole split, in its order, in every host's memory."""
    chunks = []
    size = min(config.eval.batch_size, len(store.split(split)))
    for batch in eval_batches(store, split, size + -size % mesh.size):
        features = {key: value for key, value in batch.items() if key not in ("index", "valid")}
        encoded = parallel.gather(encoder(parameters, parallel.spread_whole(features, mesh)))
        chunks.append(jax.tree.map(lambda leaf, valid=batch["valid"]: leaf[:valid], encoded))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


def rank(
    config: Any, encoded: dict[str, tuple], mesh: Mesh, facts: Facts, hybrid_k: Sequence[int] = ()
) -> Iterator[Ranking]:
    """Every mode, direction and subset. A subset restricts queries and gallery to its clips."""
    x, y = (encoded[name] for name in config.pairs[0])
    name = config.distance.name
    aggregate = parallel.matrix("cosine", x, y, mesh)
    sequence = parallel.matrix(name, x, y, mesh, **distances.options(name, config.distance))
    for subset, members in subsets(facts).items():
        for direction in DIRECTIONS:
            near, exact = (
                matrix[np.ix_(members, members)] if direction == "v2a" else matrix.T[np.ix_(members, members)]
                for matrix in (aggregate, sequence)
            )
            yield Ranking("aggregate", "cosine", direction, subset, None, members, near)
            yield Ranking("sequence", name, direction, subset, None, members, exact)
            for k in hybrid_k:
                yield Ranking("hybrid", name, direction, subset, k, members, hybrid_distances(near, exact, k))


def score(ranking: Ranking, facts: Facts) -> dict[str, Any]:
    """One row of metrics.json: recalls in percent, R@1 with its interval."""
    groups = np.where(facts.groups == "", facts.ids, facts.groups)[ranking.members]
    hits = 100.0 * (ranks(ranking.distances) == 1)
    low, high = bootstrap_interval(hits[None], groups)
    metrics = retrieval_metrics(ranking.distances)
    # The two sums round apart: no interval is to miss its own mean by a last digit.
    interval = {"R@1_low": min(low, metrics["R@1"]), "R@1_high": max(high, metrics["R@1"])}
    return {**ranking.key(), **metrics, **interval}


def quick_metrics(config: Any, encoded: dict[str, tuple], mesh: Mesh, facts: Facts) -> dict[str, float]:
    """The training log's evaluation: the whole split, ranked the way the method is meant to rank."""
    mode = "aggregate" if config.method == "cav" else "sequence"
    metrics: dict[str, float] = {}
    for ranking in rank(config, encoded, mesh, facts):
        if (ranking.mode, ranking.subset) == (mode, ALL):
            scores = retrieval_metrics(ranking.distances)
            metrics |= {f"eval_{ranking.direction}_{key}": value for key, value in scores.items()}
    if trained_with(config) == "wasserstein":
        metrics["eval_marginal_error"] = marginal_error(config, encoded)
    return metrics


def marginal_error(config: Any, encoded: dict[str, tuple], clips: int = 32) -> float:
    """The worst marginal error of Wasserstein's plans among the first `clips` clips: have the iterations converged?"""
    options = distances.options("wasserstein", config.distance)
    (x, x_mask), (y, y_mask) = (
        jax.tree.map(lambda leaf: jnp.asarray(leaf[:clips]), encoded[name]) for name in config.pairs[0]
    )
    return float(distances.marginal_error(x, y, x_mask, y_mask, **options))


def subsets(facts: Facts) -> dict[str, np.ndarray]:
    """Positions of the clips of each gallery: all, and every named subset."""
    named = {str(name): np.flatnonzero(facts.subsets == name) for name in dict.fromkeys(facts.subsets) if name}
    return {ALL: np.arange(len(facts.ids)), **named}


def protocol(config: Any, store: Store, split: str, step: int) -> dict[str, Any]:
    """What the numbers mean nothing without."""
    facts = store.facts(split)
    galleries = {}
    for subset, members in subsets(facts).items():
        _, sizes = np.unique(facts.groups[members], return_counts=True)
        grouped = (facts.groups[members] != "").all() and len(set(sizes)) == 1
        galleries[subset] = {
            "gallery_size": len(members),
            "group_size": int(sizes[0]) if grouped else None,
            "chance_R@1": 100 / len(members),
        }
    return {
        "dataset": store.ledger["dataset"],
        "split": split,
        "gallery_size": len(facts.ids),
        "ids_sha256": ids_sha256([str(clip) for clip in facts.ids]),
        "tie_rule": TIE_RULE,
        "interval_rule": INTERVAL_RULE,
        "extractors": {name: entry["extractor"] for name, entry in store.ledger["modalities"].items()},
        "coverage": store.ledger.get("coverage"),
        "health": store.ledger.get("health"),
        "method": config.method,
        "trained_with": trained_with(config),
        "seed": config.seed,
        "step": step,
        "subsets": galleries,
    }
