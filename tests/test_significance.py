"""Intervals and differences from the ranks that eval.py keeps."""

import json

import numpy as np
import pytest

from scav_jax import significance
from scav_jax.results import markdown_tables, pool_seeds, summary_rows

GROUPS = np.repeat([f"g{i}" for i in range(10)], 4)


def write_run(folder, method, trained_with, seed, ranks):
    """A run whose every ranking has the same `ranks` (40,), in a split of one subset that holds the first 20 clips."""
    (folder / "eval").mkdir(parents=True)
    arrays, results = {}, []
    for mode, distance in (("aggregate", "cosine"), ("sequence", "euclidean" if method == "cav" else trained_with)):
        for direction in ("v2a", "a2v"):
            for subset, members in (("all", slice(None)), ("order", slice(20))):
                key = {"mode": mode, "distance": distance, "direction": direction, "subset": subset, "k": None}
                arrays[json.dumps(key)] = ranks[members]
                recall = 100 * np.mean(ranks[members] == 1)
                results.append(key | {"R@1": recall, "R@5": 0.0, "R@10": 0.0, "MedR": 1.0, "MRR": 1.0})
    subsets = np.array(["order"] * 20 + [""] * 20)
    np.savez(folder / "eval" / "ranks.npz", ids=np.arange(40).astype(str), groups=GROUPS, subsets=subsets, **arrays)
    protocol = {"method": method, "trained_with": trained_with, "seed": seed, "gallery_size": 40}
    (folder / "eval" / "metrics.json").write_text(json.dumps({"protocol": protocol, "results": results}))
    return folder


@pytest.fixture
def runs(tmp_path):
    right, wrong = np.ones(40, int), np.full(40, 7)
    half = np.where(np.arange(40) % 2, 1, 7)
    return [
        write_run(tmp_path / "cav", "cav", "cosine", 0, wrong),
        write_run(tmp_path / "eu0", "scav", "euclidean", 0, right),
        write_run(tmp_path / "eu1", "scav", "euclidean", 1, half),
        write_run(tmp_path / "dtw0", "scav", "dtw", 0, half),
        write_run(tmp_path / "dtw1", "scav", "dtw", 1, right),
    ]


def test_seeds_are_stacked_and_subsets_cut(runs):
    hits = significance.load_hits(runs)
    found = hits["scav", "euclidean", "sequence", "euclidean", "v2a", "order", None]
    assert found.hits.shape == (2, 20)
    assert set(found.groups) == {f"g{i}" for i in range(5)}
    np.testing.assert_array_equal(found.hits.mean(axis=1), [100, 50])


def test_an_interval_spans_the_seeds(runs):
    low, high = significance.intervals(significance.load_hits(runs))[
        "scav", "euclidean", "sequence", "euclidean", "v2a", "all", None
    ]
    assert (low, high) == (50, 100)  # every group has the same mean, so only the seeds vary


def test_differences_use_each_methods_own_retrieval(runs):
    found = significance.differences(significance.load_hits(runs))
    mean, low, _ = found["cosine", "euclidean", "order"]
    assert mean == -75
    assert low <= mean
    mean, low, high = found["euclidean", "dtw", "all"]
    assert mean == 0
    assert low <= 0 <= high


def test_markdown_marks_what_does_not_differ(runs):
    hits = significance.load_hits(runs)
    rows = pool_seeds(summary_rows(runs), significance.intervals(hits))
    lines = markdown_tables(rows, significance.differences(hits)).splitlines()
    (pair,) = [line for line in lines if line.startswith("| SCAV Euclidean | SCAV DTW |")]
    assert pair.count("(=)") == 2
    (pair,) = [line for line in lines if line.startswith("| CAV | SCAV Euclidean |")]
    assert "-75.0" in pair
    assert "(=)" not in pair
