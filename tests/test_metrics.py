"""Ranks against a hand-made table and a loop; ties, NaN, missing positives; the bootstrap against known cases."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from scav_jax.metrics import average_precision, bootstrap_interval, paired_p_value, ranks, retrieval_metrics

# By hand: query 0 finds item 0 first; query 1's item 1 is third; query 2's item 2 ties with item 3, so it is second.
TABLE = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.5, 0.4, 0.9], [0.7, 0.8, 0.2, 0.2]])


def test_hand_made_table():
    assert ranks(TABLE).tolist() == [1, 3, 2]
    metrics = retrieval_metrics(TABLE)
    assert metrics == pytest.approx(
        {"R@1": 100 / 3, "R@5": 100, "R@10": 100, "MedR": 2, "MRR": (1 + 1 / 3 + 1 / 2) / 3}
    )


def test_relevant_columns_and_sets():
    assert ranks(TABLE, np.array([3, 0, 1])).tolist() == [4, 1, 4]
    several = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]], bool)
    # Query 0: item 1 is its best, only item 0 nearer. Query 1 has none: G + 1. Query 2: the tie is relevant too.
    assert ranks(TABLE, several).tolist() == [2, 5, 1]


def test_no_relevant_item_is_no_hit_in_a_small_gallery():
    metrics = retrieval_metrics(np.zeros((2, 3)), relevant=np.array([[True] * 3, [False] * 3]))
    assert metrics == pytest.approx({"R@1": 50, "R@5": 50, "R@10": 50, "MedR": 2.5, "MRR": (1 + 1 / 4) / 2})


def test_constant_distances_score_worst():
    assert ranks(np.zeros((3, 5))).tolist() == [5, 5, 5]
    assert ranks(np.full((2, 2), np.inf)).tolist() == [2, 2]


@given(npst.arrays(np.float32, (4, 6), elements=st.sampled_from([0.0, 0.25, 1.0, np.inf])), st.data())
def test_matches_a_loop(distances, data):
    relevant = data.draw(npst.arrays(bool, (4, 6)))
    expected = []
    for row, positives in zip(distances, relevant, strict=True):
        best = min((d for d, positive in zip(row, positives, strict=True) if positive), default=None)
        ahead = [not positive and (best is None or d <= best) for d, positive in zip(row, positives, strict=True)]
        expected.append(1 + sum(ahead))
    assert ranks(distances, relevant).tolist() == expected


@pytest.mark.parametrize(
    ("message", "distances", "relevant"),
    [
        ("NaN", [[0.0, np.nan]], None),
        ("more queries", np.zeros((3, 2)), None),
        ("non-empty", np.zeros((0, 2)), None),
        ("non-empty", np.zeros(3), None),
        (r"columns 0\.\.1", np.zeros((2, 2)), np.array([0, 2])),
        (r"columns 0\.\.1", np.zeros((2, 2)), np.array([-1, 0])),
        ("integer columns", np.zeros((2, 2)), np.array([0.0, 1.0])),
        ("integer columns", np.zeros((2, 2)), np.array([True, False])),
    ],
)
def test_bad_input_is_named(message, distances, relevant):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(distances, relevant=relevant)


def test_more_queries_than_items_with_relevant():
    assert ranks(np.array([[0.0, 1.0]] * 3), np.array([0, 1, 0])).tolist() == [1, 2, 1]


def test_bootstrap_of_independent_queries_matches_the_normal_interval(rng):
    hits = (rng.uniform(size=(1, 2000)) < 0.3).astype(float)
    low, high = bootstrap_interval(hits, np.arange(2000), num_samples=4000)
    half_width = 1.96 * hits.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((hits.mean() - half_width, hits.mean() + half_width), abs=0.15 * half_width)


def test_bootstrap_resamples_whole_groups_and_seeds(rng):
    hits = np.repeat(rng.uniform(size=(1, 50)) < 0.5, 20, axis=1).astype(float)  # 50 groups of 20 equal hits
    groups = np.repeat([f"g{i}" for i in range(50)], 20)
    (low, high), (low_alone, high_alone) = (bootstrap_interval(hits, g) for g in (groups, np.arange(1000)))
    # 20 equal hits count as one: the interval is sqrt(20) = 4.5 times as wide.
    assert high - low > 3 * (high_alone - low_alone)
    # All spread between two seeds: the mean of two draws is 0, 1/2 or 1.
    assert bootstrap_interval([[0.0] * 4, [1.0] * 4], np.zeros(4)) == (0, 1)
    assert bootstrap_interval([[0.0, 1.0]], ["a", "a"]) == (0.5, 0.5)
    assert bootstrap_interval(hits, groups) == (low, high)


@pytest.mark.parametrize(
    ("message", "arguments", "level"),
    [
        ("seeds, queries", ([1.0, 0.0], [0, 1]), 0.95),
        ("seeds, queries", ([[1.0, 0.0]], [0]), 0.95),
        ("NaN", ([[np.nan, 0.0]], [0, 1]), 0.95),
        ("level", ([[1.0, 0.0]], [0, 1]), 95.0),
    ],
)
def test_bootstrap_names_bad_input(message, arguments, level):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*arguments, level=level)


def test_average_precision_by_hand():
    several = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]], bool)
    # Query 0: places 2 and 3. Query 1: nothing to find. Query 2: both relevant tie at the front.
    assert average_precision(TABLE, several) == pytest.approx([(1 / 2 + 2 / 3) / 2, 0, 1])
    assert average_precision(TABLE, np.array([0, 1, 2])) == pytest.approx([1, 1 / 3, 1 / 2])  # a tie counts against us


def test_duplicates_in_the_gallery_never_raise_recall(rng):
    """A copy of the relevant clip under another id ties with it: the pessimistic rank says second."""
    distances = rng.uniform(size=(6, 6)).astype(np.float32)
    before = ranks(distances)
    for copied in range(6):
        more = np.concatenate([distances, distances[:, copied : copied + 1]], axis=1)
        after = ranks(more)
        assert (after >= before).all()
        assert after[copied] == before[copied] + 1
    metrics = retrieval_metrics(np.concatenate([distances] * 2, axis=1))
    assert metrics["R@1"] == 0


def test_all_ties_are_no_hit_and_a_nan_row_is_an_error():
    assert retrieval_metrics(np.full((7, 7), 0.5))["R@1"] == 0
    distances = np.eye(3)
    distances[1] = np.nan
    for score in (retrieval_metrics, lambda matrix: average_precision(matrix, np.eye(3, dtype=bool))):
        with pytest.raises(ValueError, match="expected numbers, got 3 NaN"):
            score(distances)


@pytest.mark.heavy  # numba compiles for half a minute
@pytest.mark.filterwarnings("ignore:.*unsafe cast from uint64 to int64")  # it may begin with colours
def test_agreement_with_ranx(rng):
    from ranx import Qrels, Run, evaluate

    distances = rng.permuted(np.tile(np.linspace(0, 1, 40), (30, 1)), axis=1)  # no ties
    relevant = rng.uniform(size=(30, 40)) < 0.15
    relevant[np.arange(30), np.arange(30)] = True
    qrels = Qrels({f"q{q}": {f"c{c}": 1 for c in np.flatnonzero(row)} for q, row in enumerate(relevant)})
    run = Run({f"q{q}": {f"c{c}": 1 - value for c, value in enumerate(row)} for q, row in enumerate(distances)})
    theirs = evaluate(qrels, run, ["map", "mrr", "hit_rate@1", "hit_rate@5", "hit_rate@10"])
    ours = retrieval_metrics(distances, relevant=relevant)
    assert average_precision(distances, relevant).mean() == pytest.approx(theirs["map"], abs=1e-9)
    assert ours["MRR"] == pytest.approx(theirs["mrr"], abs=1e-9)
    for k in (1, 5, 10):
        assert ours[f"R@{k}"] / 100 == pytest.approx(theirs[f"hit_rate@{k}"], abs=1e-9)


def test_paired_p_values_of_known_cases(rng):
    queries = np.arange(12)
    better, worse = np.full((1, 12), 100.0), np.zeros((1, 12))
    assert paired_p_value(better, worse, queries) == pytest.approx(2 / 2**12, abs=4e-4)  # only all or no exchange
    assert paired_p_value(better, better, queries) == 1
    # Twelve related queries are one: nothing can be told.
    assert paired_p_value(better, worse, np.zeros(12)) == 1
    small = [paired_p_value(*rng.normal(size=(2, 1, 40)), np.arange(40), num_samples=199) for _ in range(200)]
    assert 0.005 < np.mean(np.less_equal(small, 0.05)) < 0.12


def test_metrics_import_no_jax():
    code = "import sys, scav_jax.metrics; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_integer_distances_rank_as_their_values():
    distances = np.array([[1, 2], [3, 3]])
    np.testing.assert_array_equal(ranks(distances), [1, 2])
    assert retrieval_metrics(distances) == retrieval_metrics(distances.astype(float))
