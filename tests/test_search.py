"""Search: hybrid ranking, and exact search that is brute force with fewer distances, and knows it."""

import jax.numpy as jnp
import numpy as np
import pytest

from scav_jax import metrics, parallel
from scav_jax.distances import pairwise
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.ranking import hybrid_distances, smallest
from scav_jax.retrieval.search import MODES, Searcher, search

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


DISTANCES = {
    "euclidean": {"unit_norm": True},
    "euclidean-reversed": {"resample": "y_to_x"},
    "wasserstein": {"unit_norm": True, "epsilon": 0.1, "num_iterations": 20, "position_weight": 1.0},
    "wasserstein-debiased": {"debiased": True, "num_iterations": 50, "epsilon": 0.3},
    "dtw": {"gamma": 0.1, "unit_norm": True},
    "dtw-hard": {"gamma": 0, "cost": "euclidean"},
    "dtw-debiased": {"gamma": 1.0, "debiased": True},
}


def walks(rng, count, gallery, ragged):
    """Queries, each the noisy copy of a clip of the gallery: walks along a few directions."""
    directions = rng.normal(size=(3, 8))
    walk = np.cumsum(rng.normal(size=(gallery, 6, 3)), axis=1) @ directions
    x, y = ((walk + rng.normal(0, 0.2, walk.shape)).astype(np.float32)[:, :length] for length in (5, 6))
    masks = [np.arange(side.shape[1]) < rng.integers(2, side.shape[1] + 1, (gallery, 1)) for side in (x, y)]
    x_mask, y_mask = masks if ragged else (None, None)
    return Clips(x, x_mask), Clips(y, y_mask), rng.choice(gallery, count, replace=False)


@pytest.mark.parametrize("ragged", [pytest.param(False, marks=pytest.mark.heavy), True])
@pytest.mark.parametrize("side", ["x", pytest.param("y", marks=pytest.mark.heavy)])
@pytest.mark.parametrize("case", DISTANCES)
def test_exact_search_is_brute_force_with_fewer_distances(case, side, ragged, rng):
    name, options = case.partition("-")[0], DISTANCES[case]
    x, y, chosen = walks(rng, 9, 60, ragged)
    queries, gallery = (x[chosen], y) if side == "x" else (y[chosen], x)
    options = {**options, "queries_are": side, "batch_size": 4}
    whole = search(name, queries, gallery, 5, mode="sequence", **options)
    exact = search(name, queries, gallery, 5, mode="exact", chunk=4, rank=4, **options)
    np.testing.assert_allclose(exact.distances, whole.distances, rtol=1e-4, atol=1e-5)
    # Where two distances differ by rounding alone, either may come first.
    gaps = np.diff(whole.distances, axis=1).min(axis=1) > 1e-4
    np.testing.assert_array_equal(exact.indices[gaps], whole.indices[gaps])
    assert gaps.sum() >= 3
    assert exact.certified.all()
    assert (exact.computed <= 60).all()
    everything = search(name, queries, gallery, 60, mode="sequence", **options)
    for query, indices in enumerate(exact.indices):
        others = ~np.isin(everything.indices[query], indices)
        assert everything.distances[query][others].min() >= exact.distances[query, -1] - 1e-4
    assert (whole.computed == 60).all()


def test_bounds_save_distances_and_certify_hybrids(rng):
    x, y, chosen = walks(rng, 20, 400, False)
    found = search("euclidean", x[chosen], y, 5, mode="exact", chunk=8, rank=4)
    assert np.median(found.computed) < 100
    few, all_of_them = (search("euclidean", x[chosen], y, 5, mode="hybrid", candidates=c) for c in (5, 400))
    assert all_of_them.certified.all()
    np.testing.assert_array_equal(all_of_them.indices, found.indices)
    assert not few.certified.all()
    right = (few.indices == found.indices).all(axis=1)
    assert right[few.certified].all()
    nearest = search("euclidean", x[chosen], y, 1, mode="aggregate")
    assert nearest.distances.max() <= 2  # a cosine's


def test_ties_go_by_position(rng):
    clips = Clips(np.repeat(rng.normal(size=(1, 3, 4)), 6, axis=0).astype(np.float32))
    for mode in ("sequence", "exact"):
        assert search("dtw", clips[:1], clips, 3, mode=mode, chunk=2).indices.tolist() == [[0, 1, 2]]


def test_searches_that_cannot_be_are_named(rng):
    clips = Clips(np.ones((3, 2, 2), np.float32))
    for told, message in (
        ({"mode": "fast"}, "mode: expected one of aggregate, sequence, hybrid, exact, got 'fast'"),
        ({"queries_are": "z"}, "queries_are: expected x or y, got 'z'"),
        ({"k": 4}, "k: expected 1 to the 3 clips of the gallery, got 4"),
        ({"mode": "hybrid", "candidates": 1}, "candidates: expected at least k = 2, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            search("euclidean", clips, clips, **{"k": 2, **told})


@pytest.mark.parametrize("case", ["euclidean", "wasserstein-debiased"])
def test_8_devices_find_what_one_does(case, rng):
    x, y, chosen = walks(rng, 9, 60, True)
    options = {**DISTANCES[case], "batch_size": 4, "chunk": 4, "rank": 4}
    one, all_of_them = (
        [search(case.partition("-")[0], x[chosen], y, 5, mode=mode, mesh=mesh, **options) for mode in MODES]
        for mesh in (None, parallel.make_mesh())
    )
    for alone, spread in zip(one, all_of_them, strict=True):
        np.testing.assert_array_equal(spread.indices, alone.indices)
        np.testing.assert_array_equal(spread.computed, alone.computed)
        np.testing.assert_allclose(spread.distances, alone.distances, rtol=1e-5, atol=1e-6)


def test_ranks_are_those_of_the_whole_row_with_fewer_distances(rng):
    x, y, chosen = walks(rng, 30, 300, False)
    y.sequences[chosen[0] - 1] = y.sequences[chosen[0]]  # a tie counts against us
    found, computed = Searcher("dtw", y, batch_size=8, rank=4, chunk=8, gamma=0.1).until_found(x[chosen], chosen)
    matrix = np.asarray(pairwise("dtw", jnp.asarray(x[chosen].sequences), jnp.asarray(y.sequences), gamma=0.1))
    expected = metrics.ranks(matrix, chosen)
    np.testing.assert_array_equal(metrics.ranks(found, chosen), expected)
    assert expected[0] > 1
    near = np.isfinite(found)
    np.testing.assert_allclose(found[near], matrix[near], rtol=1e-4, atol=1e-5)
    assert np.median(computed) < 150


def test_the_smallest_of_each_row_are_those_of_a_stable_sort(rng):
    matrix = rng.integers(0, 5, (20, 30)).astype(float)
    for k in (1, 7, 30, 40):
        np.testing.assert_array_equal(smallest(matrix, k), np.argsort(matrix, axis=1, kind="stable")[:, :k])
