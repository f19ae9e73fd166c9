"""Which clips a rule chooses."""

import numpy as np
import pytest

from scav_jax import galleries
from scav_jax.features.store import Facts

IDS = np.array([f"clip{row}" for row in range(12)])
LABELS = np.array(["cat", "dog", "owl"] * 4)
NONE = np.full(12, "")
FACTS = Facts(IDS, LABELS, NONE, NONE)


def test_full_is_all():
    members, told = galleries.choose("full", FACTS)
    assert members.tolist() == list(range(12))
    assert told == {"rule": "full"}


def test_a_few_of_each_class_are_the_same_ones_in_any_order():
    members, told = galleries.choose("2-per-class", FACTS)
    assert told == {"rule": "2-per-class"}
    assert sorted(LABELS[members]) == ["cat", "cat", "dog", "dog", "owl", "owl"]
    order = np.random.default_rng(0).permutation(12)
    shuffled, _ = galleries.choose("2-per-class", FACTS[order])
    assert set(IDS[order][shuffled]) == set(IDS[members])
    assert len(galleries.choose("9-per-class", FACTS)[0]) == 12


def test_a_list_of_ids_is_kept_to_what_the_split_has(tmp_path):
    listed = tmp_path / "five.txt"
    listed.write_text("clip7\n\nclip2\ngone\nclip2\n")
    members, told = galleries.choose(str(listed), FACTS)
    assert members.tolist() == [2, 7]
    assert (told["rule"], told["listed"], told["present"]) == ("five.txt", 3, 2)
    assert FACTS[members].ids.tolist() == ["clip2", "clip7"]


def test_bad_rules_are_named(tmp_path):
    with pytest.raises(
        ValueError, match="gallery: expected full, N-per-class, or a file of ids, one a line, got 'some'"
    ):
        galleries.choose("some", FACTS)
    with pytest.raises(ValueError, match="expected at least 1 of each class and labels, got 5 and 12 without"):
        galleries.choose("5-per-class", Facts(IDS, NONE, NONE, NONE))
    (tmp_path / "other.txt").write_text("nobody\n")
    with pytest.raises(ValueError, match=r"other.txt: expected ids of the split's clips such as 'clip0', got none"):
        galleries.choose(str(tmp_path / "other.txt"), FACTS)
