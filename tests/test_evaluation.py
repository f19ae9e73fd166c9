"""Retrieval of a split by hand-made sequences: what every row ranks, and what the protocol says of it."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base
from scav_jax import evaluation, parallel, protocol, training
from scav_jax.all_pairs import AllPairs
from scav_jax.features.clips import Clip, ids_sha256
from scav_jax.features.store import Facts, Store, open_store
from train import complete

# Four clips of two frames; clips 0 and 1 (and 2 and 3) hold the same frames in opposite order.
A, B, C, D = np.eye(4, dtype=np.float32)
CLIPS = np.stack([np.stack(frames) for frames in ((A, B), (B, A), (C, D), (D, C))])
MESH = parallel.make_mesh(jax.devices()[:1])
FACTS = Facts(
    ids=np.array(["a", "b", "c", "d"]),
    labels=np.array(["", "", "", ""]),
    groups=np.array(["g", "g", "h", "h"]),
    subsets=np.array(["order", "order", "", ""]),
)
ASKED = evaluation.Asked()


def config(**changes):
    found = base.get_config()
    found.update(changes)
    return found


def rankings(hybrid_k=(), modes=evaluation.MODES[:3], distances=(), subsets=(), **changes):
    # Clip 2's sound is nearer to clip 3's picture: a2v and v2a both miss it, whatever looks at order.
    sound = CLIPS[[0, 1, 3, 3]] + np.float32([0, 0, 0, 0.1])[:, None, None] * C
    encoded = {"visual": (CLIPS, None), "audio": (sound, None)}
    asked = evaluation.Asked(modes, distances, hybrid_k=hybrid_k, subsets=subsets)
    return {
        tuple(ranking.key().values()): ranking
        for ranking in evaluation.rank(AllPairs(config(**changes), MESH, encoded), FACTS, asked)
    }


def scores(found):
    return {key: evaluation.score(ranking, FACTS) for key, ranking in found.items()}


def test_every_combination_comes_once():
    found = rankings(hybrid_k=(1, 2))
    assert found.keys() == {
        (mode, distance, direction, subset, k)
        for mode, distance, k in (
            ("aggregate", "cosine", None),
            ("sequence", "euclidean", None),
            ("hybrid", "euclidean", 1),
            ("hybrid", "euclidean", 2),
        )
        for direction in ("v2a", "a2v")
        for subset in ("all", "order")
    }


def test_scores_by_hand():
    """Means tie within a pair of clips, and ties count against us; sequences tell A B from B A."""
    found = scores(rankings())
    aggregate = found["aggregate", "cosine", "v2a", "order", None]
    assert (aggregate["R@1"], aggregate["MedR"], aggregate["MRR"]) == (0.0, 2.0, 0.5)
    sequence = found["sequence", "euclidean", "v2a", "order", None]
    assert (sequence["R@1"], sequence["R@5"], sequence["MedR"], sequence["MRR"]) == (100.0, 100.0, 1.0, 1.0)
    # v2a: clips a, b first; c second, behind d's sound; d tied at best or first. a2v: c's sound is nearest d's picture.
    assert found["sequence", "euclidean", "a2v", "all", None]["R@1"] == 75.0


def test_subsets_restrict_queries_and_gallery():
    found = rankings()
    whole, part = (found["sequence", "euclidean", "v2a", subset, None] for subset in ("all", "order"))
    assert whole.distances.shape == (4, 4)
    assert part.members.tolist() == [0, 1]
    np.testing.assert_array_equal(part.distances, whole.distances[:2, :2])


def test_a_subset_alone_ranks_as_among_all():
    alone, among = rankings(subsets=("order",)), rankings()
    assert {key[3] for key in alone} == {"order"}
    for key, ranking in alone.items():
        assert ranking.members.tolist() == among[key].members.tolist()
        np.testing.assert_allclose(ranking.distances, among[key].distances, rtol=1e-6)


def test_queries_of_another_encoding_meet_the_gallery_as_it_was():
    members = np.array([1, 3])
    gallery = {"visual": (CLIPS, None), "audio": (CLIPS[::-1], None)}
    queries = {"visual": (2 * CLIPS, None), "audio": (CLIPS[:, ::-1], None)}
    found = AllPairs(config(), MESH, gallery, queries, members)
    for direction, modality in (("v2a", "visual"), ("a2v", "audio")):
        expected = AllPairs(config(), MESH, {**gallery, modality: queries[modality]})
        for name in ("euclidean", "cosine"):
            np.testing.assert_allclose(
                found.matrix(name, direction, members), expected.matrix(name, direction, members), rtol=1e-6
            )


def test_directions_are_transposes():
    found = rankings()
    for mode, distance in (("aggregate", "cosine"), ("sequence", "euclidean")):
        there, back = (found[mode, distance, direction, "all", None].distances for direction in ("v2a", "a2v"))
        np.testing.assert_array_equal(there, back.T)


def test_hybrid_of_one_keeps_the_aggregate_and_of_all_the_sequence():
    found = rankings(hybrid_k=(1, 4))
    for direction in ("v2a", "a2v"):
        sequence = found["sequence", "euclidean", direction, "all", None].distances
        np.testing.assert_array_equal(found["hybrid", "euclidean", direction, "all", 4].distances, sequence)
        hybrid = found["hybrid", "euclidean", direction, "all", 1].distances
        aggregate = found["aggregate", "cosine", direction, "all", None].distances
        np.testing.assert_array_equal(
            np.argsort(hybrid, axis=1, kind="stable"), np.argsort(aggregate, axis=1, kind="stable")
        )


def test_interval_contains_the_recall():
    for row in scores(rankings(hybrid_k=(2,))).values():
        assert row["R@1_low"] - 1e-9 <= row["R@1"] <= row["R@1_high"] + 1e-9  # rounding of two means


def test_quick_metrics_rank_as_the_method_is_meant_to():
    encoded = {"visual": (CLIPS, None), "audio": (CLIPS, None)}
    facts = FACTS
    assert evaluation.quick_metrics(config(method="scav"), encoded, MESH, facts)["eval_v2a_R@1"] == 100.0
    cav = evaluation.quick_metrics(config(method="cav"), encoded, MESH, facts)
    assert cav["eval_v2a_R@1"] == cav["eval_a2v_R@1"] == 0.0


def test_wasserstein_logs_its_marginal_error():
    encoded = {"visual": (CLIPS, None), "audio": (CLIPS, None)}
    changed = config()
    changed.distance.name = "wasserstein"
    errors = []
    for iterations in (1, 200):
        changed.distance.num_iterations = iterations
        errors.append(evaluation.quick_metrics(changed, encoded, MESH, FACTS)["eval_marginal_error"])
    assert errors[1] < 1e-3
    assert errors[1] <= errors[0]


def test_protocol_describes_each_gallery():
    columns = (FACTS.ids, ["test"] * 4, FACTS.labels, FACTS.groups, FACTS.subsets)
    clips = [Clip(*map(str, facts)) for facts in zip(*columns, strict=True)]
    ledger = {
        "dataset": "hand-made",
        "modalities": {"visual": {"extractor": {"name": "clip"}}, "audio": {"extractor": None}},
        "coverage": {"published": 9, "present": 4},
        "health": {"silent": {"count": 1}},
    }
    store = Store(Path("nowhere"), ledger, {"test": clips}, None)
    told = dict(facts=FACTS, gallery={"rule": "full"}, weights="ab")
    card = protocol.card(config(seed=5), store, "test", 7, **told)
    expected = dict(
        dataset="hand-made", split="test", gallery_size=4, method="scav", trained_with="euclidean", seed=5, step=7
    )
    assert {key: card[key] for key in expected} == expected
    assert card["ids_sha256"] == ids_sha256(["a", "b", "c", "d"])
    assert (card["gallery"], card["weights_sha256"]) == ({"rule": "full"}, "ab")
    assert card["extractors"] == {"visual": {"name": "clip"}, "audio": None}
    assert (card["coverage"], card["health"]) == (ledger["coverage"], ledger["health"])
    assert card["subsets"] == {
        "all": {"gallery_size": 4, "group_size": 2, "chance_R@1": 25.0},
        "order": {"gallery_size": 2, "group_size": 2, "chance_R@1": 50.0},
    }
    assert protocol.card(config(method="cav"), store, "test", 7, **told)["trained_with"] == "cosine"


def test_batches_and_devices_change_no_sequence_and_no_distance(marimba):
    store = open_store(marimba / "store")
    chosen = base.get_config()
    for tower in chosen.model.values():
        tower.update(width=8, mlp_width=8, num_heads=2, num_layers=1, ffn_width=8, scan_layers=False)
    whole = store.ledger["splits"]["val"]
    encoded, matrices = [], []
    for batch_size, mesh in ((whole, MESH), (16, MESH), (16, parallel.make_mesh())):
        chosen.eval.batch_size = batch_size
        ready = complete(chosen, store.ledger)
        parameters = parallel.replicate(training.init(ready).parameters, mesh)
        encoder = evaluation.make_encoder(ready, mesh)
        encoded.append(evaluation.encode_split(ready, encoder, mesh, parameters, store, "val"))
        matrices.append(
            [r.distances for r in evaluation.rank(AllPairs(ready, mesh, encoded[-1]), store.facts("val"), ASKED)]
        )
    assert whole % 16
    assert whole % 8
    for name in ("visual", "audio"):
        once, *others = (found[name][0] for found in encoded)
        assert once.shape == (whole, store.ledger["modalities"][name]["max_length"], 8)
        for other in others:
            np.testing.assert_allclose(once, other, atol=1e-5)
    for once, *others in zip(*matrices, strict=True):
        for other in others:
            np.testing.assert_allclose(once, other, atol=1e-5)


@pytest.mark.parametrize("grouped", [True, False])
def test_intervals_resample_whole_groups(grouped):
    """One group of hits and one of misses: resampling groups gives 0, 50 or 100, resampling clips does not."""
    size = 10
    distances = np.ones((2 * size, 2 * size))
    distances[np.arange(size), np.arange(size)] = 0
    groups = np.repeat(["g", "h"], size) if grouped else np.full(2 * size, "")
    facts = Facts(np.array([f"clip{index}" for index in range(2 * size)]), groups, groups, groups)
    ranking = evaluation.Ranking("sequence", "dtw", "v2a", "all", None, np.arange(2 * size), distances)
    row = evaluation.score(ranking, facts)
    assert row["R@1"] == 50.0
    assert (row["R@1_low"] == 0) == grouped
    assert (row["R@1_high"] == 100) == grouped


def test_a_store_of_other_features_is_refused(marimba):
    store = open_store(marimba / "store")
    evaluation.check_store(complete(base.get_config(), store.ledger), store)
    with pytest.raises(
        ValueError, match=r"expected (visual|audio) features of width \d+ at [\d.]+ Hz, got \d+ at [\d.]+ Hz"
    ):
        evaluation.check_store(base.get_config(), store)


def test_exact_ranks_as_sequence_does():
    found = rankings(modes=("sequence", "exact"))
    assert len(found) == 8
    rows = scores(found)
    for (mode, *rest), row in rows.items():
        if mode == "exact":
            sequence = rows["sequence", *rest]
            assert {key: row[key] for key in row if key != "mode"} == {
                key: sequence[key] for key in row if key != "mode"
            }


def test_what_knows_no_order_ties_where_order_is_all():
    """Clips a and b hold the same frames in opposite order: order-free distances put both at 0."""
    found = rankings(modes=("sequence",), distances=("euclidean", "maxsim", "chamfer"))
    for name in ("maxsim", "chamfer"):
        for direction in ("v2a", "a2v"):
            np.testing.assert_allclose(found["sequence", name, direction, "order", None].distances, 0, atol=1e-6)
    there, back = (found["sequence", "maxsim", direction, "all", None].distances for direction in ("v2a", "a2v"))
    assert there[2, 0] > 0.9
    both = found["sequence", "chamfer", "v2a", "all", None].distances
    np.testing.assert_allclose(both, (there + back.T) / 2, atol=1e-6)


def test_labels_give_mean_average_precision():
    facts = replace(FACTS, labels=np.array(["s", "s", "t", "t"]))
    for ranking in rankings(modes=("aggregate",)).values():
        row = evaluation.score(ranking, facts)
        assert row["mAP"] == 100.0  # clips of one label have the same mean
        assert "mAP" not in evaluation.score(ranking, FACTS)


def test_runs_that_were_evaluated_otherwise_do_not_compare():
    card = {name: 1 for name in protocol.COMPARABLE} | {"weights_sha256": "ab"}
    protocol.check_comparable({"one": card, "two": {**card, "weights_sha256": "cd"}})
    for field in protocol.COMPARABLE:
        with pytest.raises(
            ValueError, match=rf"protocol\.{field}: expected runs that were evaluated alike, got one: 1"
        ):
            protocol.check_comparable({"one": card, "two": {**card, field: 2}})


def test_fingerprints_of_weights_know_values_names_and_types():
    weights = {"a": np.ones(3, np.float32), "b": {"c": np.zeros(2, np.float32)}}
    known = protocol.weights_sha256(weights)
    assert protocol.weights_sha256({**weights}) == known
    changed = [
        {**weights, "a": np.float32([1, 1, 2])},
        {"b": weights["b"], "d": weights["a"]},
        {**weights, "a": np.ones(3, np.float16)},
    ]
    assert len({known, *map(protocol.weights_sha256, changed)}) == 4
