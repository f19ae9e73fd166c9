"""benchmarks/precision.py: two rankings of one gallery compared by hand, and what it says without runs."""

import sys

import numpy as np
import pytest

from benchmarks import precision

GROUPS = np.array(["a", "a", "b", "b"])
EXACT = np.float32([[1, 2, 3, 4], [5, 1, 6, 7], [4, 3, 1, 2], [2, 3, 4, 1]])


def test_equal_distances_change_nothing():
    found = precision.compare(EXACT, EXACT, GROUPS)
    assert (found.before, found.after, found.low, found.high) == (100, 100, 0, 0)
    assert (found.largest_change, found.first_changed, found.overlap, found.same_order) == (0, 0, 100, 100)


def test_changes_by_hand(monkeypatch):
    monkeypatch.setattr(precision, "NEAREST", 2)
    other = EXACT.copy()
    other[0, 0] = 2.5  # behind clip 1, among the nearest two
    other[2, 1] = 1.5  # in place of clip 3, behind the right one
    found = precision.compare(EXACT, other, GROUPS)
    assert (found.before, found.after) == (100, 75)
    assert (found.low, found.high) == (-50, 0)  # of the groups' means -50 and 0, two drawn
    assert found.largest_change == 1.5
    assert found.first_changed == 25
    assert found.overlap == 100 * 7 / 8
    assert found.same_order == 50


def test_a_distance_of_zero_that_stays_has_not_changed():
    assert precision.compare(np.zeros((2, 2)), np.zeros((2, 2)), GROUPS[:2]).largest_change == 0
    assert precision.compare(np.zeros((2, 2)), np.eye(2), GROUPS[:2]).largest_change == np.inf


def test_a_missing_run_is_one_line_that_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["precision", f"--demo={tmp_path}"])
    with pytest.raises(SystemExit, match=r"^error: .*cav-seed0: expected .*`make demo`"):
        precision.main()
