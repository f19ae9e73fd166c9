"""Accuracy against latency: the whole gallery searched in every mode, timed, with what is proven of each answer."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from scav_jax import evaluation
from scav_jax.features.store import Facts
from scav_jax.metrics import bootstrap_interval

TOP = 10
SWEEP = (5, 10, 20, 50, 100, 200, 500)
REPEATS, ENOUGH_S = 3, 1.0


def frontier(
    config: Any, encoded: evaluation.Encoded, mesh: Mesh, facts: Facts, asked: evaluation.Asked
) -> list[dict[str, Any]]:
    """A row for aggregate, hybrid at each k, exact and sequence search, of each distance and direction.

    "R@1" in percent with its interval; "ms_per_query", the best of up to three searches for the ten nearest by all
    queries, programs compiled and the gallery prepared before; "certified", percent of the queries whose answer is
    proven exact; "computed_median" and "computed_max", distances computed for a query.
    """
    sweep = sorted({min(k, len(facts.ids)) for k in asked.hybrid_k or SWEEP})
    plan = [("aggregate", None), *(("hybrid", k) for k in sweep), ("exact", None), ("sequence", None)]
    rows = []
    jobs = [(d, name) for d in asked.directions for name in asked.distances or (config.distance.name,)]
    for direction, name in tqdm(jobs, unit="gallery", desc="frontier"):
        queries, gallery = evaluation.sides(config, encoded, encoded, direction)
        finder = evaluation.searcher(config, name, gallery, direction, mesh)
        for mode, k in plan:
            top = min(TOP, k or TOP, len(gallery))
            settings: dict[str, Any] = {"mode": mode, "candidates": k or TOP}
            finder.search(queries[:1], top, **settings)
            seconds: list[float] = []
            while len(seconds) < REPEATS and sum(seconds) < ENOUGH_S:
                start = time.perf_counter()
                found = finder.search(queries, top, **settings)
                seconds.append(time.perf_counter() - start)
            hits = 100.0 * _is_first(found.indices, found.distances)
            low, high = bootstrap_interval(hits[None], facts.families)
            rows.append(
                {
                    "mode": mode,
                    "distance": name,
                    "direction": direction,
                    "k": k,
                    "R@1": float(hits.mean()),
                    "R@1_low": low,
                    "R@1_high": high,
                    "ms_per_query": 1000 * min(seconds) / len(queries),
                    "certified": 100 * float(found.certified.mean()) if mode != "aggregate" else None,
                    "computed_median": float(np.median(found.computed)),
                    "computed_max": int(found.computed.max()),
                }
            )
    return rows


def smallest_k(rows: Sequence[dict[str, Any]]) -> int | None:
    """Of one distance's and direction's rows, the least k whose R@1 is within the interval of sequence retrieval."""
    low = next(row["R@1_low"] for row in rows if row["mode"] == "sequence")
    return min((row["k"] for row in rows if row["mode"] == "hybrid" and row["R@1"] >= low), default=None)


def _is_first(indices: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Whether the right clip is nearer than every other: a tie counts against us."""
    first = indices[:, 0] == np.arange(len(indices))
    return first & (distances[:, 0] < distances[:, 1]) if indices.shape[1] > 1 else first
