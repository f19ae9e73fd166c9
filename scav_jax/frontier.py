"""Accuracy against latency: the whole gallery searched in every mode, timed, with what is proven of each answer."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from scav_jax import evaluation
from scav_jax.all_pairs import AllPairs
from scav_jax.features.store import Facts
from scav_jax.galleries import evenly_spread
from scav_jax.metrics import bootstrap_interval, ranks
from scav_jax.protocol import ALL
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.search import Searcher

TOP = 10
SWEEP = (5, 10, 20, 50, 100, 200, 500)
TIMED = 256
REPEATS, ENOUGH_S = 3, 1.0


def frontier(pairs: AllPairs, facts: Facts, asked: evaluation.Asked) -> list[dict[str, Any]]:
    """A row for aggregate, hybrid at each k, exact and sequence search, of each distance and direction.

    "R@1" of all queries in percent, with its interval. Searched for are at most TIMED of them, evenly spread:
    "ms_per_query", the best of up to three searches for the ten nearest by all of these, programs compiled and the
    gallery prepared before; "certified", percent of the queries whose answer is proven exact; "computed_median" and
    "computed_max", distances computed for a query.
    """
    sweep = sorted({min(k, len(facts.ids)) for k in asked.hybrid_k or SWEEP})
    asked = replace(asked, hybrid_k=sweep, modes=("aggregate", "sequence", "hybrid"), subsets=(ALL,))
    rankings = list(evaluation.rank(pairs, facts, asked))
    everything = np.arange(len(facts.ids))
    jobs = [(d, name) for d in asked.directions for name in asked.distances or (pairs.config.distance.name,)]
    rows = []
    for direction, name in tqdm(jobs, unit="gallery", desc="frontier"):
        timed = pairs.queries(direction, evenly_spread(len(everything), TIMED))
        finder = pairs.searcher(name, direction, everything)
        for ranking in _in_order(rankings, direction, name):
            hits = 100.0 * (ranks(ranking.distances) == 1)
            low, high = bootstrap_interval(hits[None], facts.families)
            accuracy = {"R@1": float(hits.mean()), "R@1_low": low, "R@1_high": high}
            row = {"mode": ranking.mode, "distance": name, "direction": direction, "k": ranking.k}
            rows.append(row | accuracy | _search(finder, timed, ranking.mode, ranking.k))
    return rows


def _in_order(rankings: Sequence[evaluation.Ranking], direction: str, name: str) -> list[evaluation.Ranking]:
    """From the fastest to the slowest; exact search finds what sequence search does."""
    own = [r for r in rankings if r.direction == direction and r.distance in (name, "cosine")]
    of = {mode: [r for r in own if r.mode == mode] for mode in ("aggregate", "hybrid", "sequence")}
    exact = [replace(r, mode="exact") for r in of["sequence"]]
    return [*of["aggregate"], *of["hybrid"], *exact, *of["sequence"]]


def _search(finder: Searcher, queries: Clips, mode: str, k: int | None) -> dict[str, Any]:
    top = min(TOP, k or TOP, len(finder.gallery))
    settings: dict[str, Any] = {"mode": mode, "candidates": k or TOP}
    finder.search(queries[:1], top, **settings)
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_S:
        start = time.perf_counter()
        found = finder.search(queries, top, **settings)
        seconds.append(time.perf_counter() - start)
    return {
        "ms_per_query": 1000 * min(seconds) / len(queries),
        "certified": 100 * float(found.certified.mean()) if mode != "aggregate" else None,
        "computed_median": float(np.median(found.computed)),
        "computed_max": int(found.computed.max()),
    }


def smallest_k(rows: Sequence[dict[str, Any]]) -> int | None:
    """Of one distance's and direction's rows, the least k whose R@1 is within the interval of sequence retrieval."""
    low = next(row["R@1_low"] for row in rows if row["mode"] == "sequence")
    return min((row["k"] for row in rows if row["mode"] == "hybrid" and row["R@1"] >= low), default=None)
