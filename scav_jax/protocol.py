"""The card of a result: all that its numbers mean nothing without, and whether two cards compare."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from scav_jax.config import trained_with
from scav_jax.features.clips import ids_sha256
from scav_jax.features.store import Facts, Store

TIE_RULE = "rank = 1 + number of irrelevant clips at a distance <= that of the relevant one: a tie counts against us"
INTERVAL_RULE = "95 % percentile bootstrap, whole groups of related clips resampled"
ALL = "all"
# Runs that differ in one of these searched other galleries, saw other features, or counted differently.
COMPARABLE = ("dataset", "split", "gallery", "gallery_size", "ids_sha256", "tie_rule", "extractors")


def card(
    config: Any, store: Store, split: str, step: int, *, facts: Facts, gallery: Mapping[str, Any], weights: str
) -> dict[str, Any]:
    """Of an evaluation of the clips `facts` of a split; `gallery` as galleries.choose says, `weights` a fingerprint."""
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
        "gallery": dict(gallery),
        "gallery_size": len(facts.ids),
        "ids_sha256": ids_sha256([str(clip) for clip in facts.ids]),
        "tie_rule": TIE_RULE,
        "interval_rule": INTERVAL_RULE,
        "extractors": {name: entry["extractor"] for name, entry in store.ledger["modalities"].items()},
        "coverage": store.ledger.get("coverage"),
        "health": store.ledger.get("health"),
        "weights_sha256": weights,
        "method": config.method,
        "trained_with": trained_with(config),
        "seed": config.seed,
        "step": step,
        "subsets": galleries,
    }


def weights_sha256(parameters: Any) -> str:
    """Fingerprint of trained parameters: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_comparable(cards: Mapping[str, Mapping[str, Any]]) -> None:
    """ValueError naming the first field in which the cards, by the names of their runs, do not compare."""
    for field in COMPARABLE:
        values = {name: json.dumps(card.get(field), sort_keys=True) for name, card in cards.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise ValueError(
                f"protocol.{field}: expected runs that were evaluated alike, got {listed}; their numbers do not compare"
            )


def subsets(facts: Facts) -> dict[str, np.ndarray]:
    """Positions of the clips of each gallery: all, and every named subset."""
    named = {str(name): np.flatnonzero(facts.subsets == name) for name in dict.fromkeys(facts.subsets) if name}
    return {ALL: np.arange(len(facts.ids)), **named}
