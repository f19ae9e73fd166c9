"""Hybrid retrieval: the k nearest by aggregate come first, in the order of the sequence distance."""

import numpy as np
import pytest

from scav_jax.retrieval.search import hybrid_distances

# One query, five clips. By aggregate: 3, 1, 0, 4, 2. By sequence: 0, 4, 1, 2, 3.
AGGREGATE = np.array([[0.3, 0.2, 0.9, 0.1, 0.5]])
SEQUENCE = np.array([[1.0, 3.0, 4.0, 5.0, 2.0]])


def order(distances):
    return np.argsort(distances, axis=1, kind="stable")[0].tolist()


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [3, 1, 0, 4, 2]),  # nothing to reorder
        (2, [1, 3, 0, 4, 2]),  # 1 before 3 by sequence, then aggregate's 0, 4, 2
        (3, [0, 1, 3, 4, 2]),
        (4, [0, 4, 1, 3, 2]),
        (5, [0, 4, 1, 2, 3]),  # sequence's own order
        (50, [0, 4, 1, 2, 3]),
    ],
)
def test_order_by_hand(k, expected):
    assert order(hybrid_distances(AGGREGATE, SEQUENCE, k)) == expected


def test_against_two_sorts(rng):
    aggregate, sequence = rng.normal(size=(2, 7, 20))
    for k in (1, 6, 19, 20):
        found = np.argsort(hybrid_distances(aggregate, sequence, k), axis=1)
        for query in range(7):
            nearest = np.argsort(aggregate[query])
            first = sorted(nearest[:k], key=lambda clip: sequence[query, clip])
            assert found[query].tolist() == [*first, *nearest[k:]]


def test_ties_stay_ties():
    aggregate = np.array([[0.1, 0.1, 0.7, 0.7, 0.2]])
    sequence = np.array([[2.0, 2.0, 0.0, 0.0, 1.0]])
    found = hybrid_distances(aggregate, sequence, 3)[0]
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[4] < found[0] < found[2]


def test_of_a_tie_across_the_last_place_the_lower_column_is_a_candidate():
    found = hybrid_distances(np.array([[0.5, 0.5, 0.5]]), np.array([[3.0, 2.0, 1.0]]), 2)
    assert order(found) == [1, 0, 2]


def test_close_float32_distances_behind_the_candidates_stay_apart():
    aggregate = np.float32([[0.0, 0.5, 0.5 + 2**-24, 0.5]])
    sequence = np.float32([[1e4, 0.0, 0.0, 0.0]])
    found = hybrid_distances(aggregate, sequence, 1)[0]
    assert found[1] == found[3] < found[2]


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        hybrid_distances(AGGREGATE, SEQUENCE, 0)
