import json

import numpy as np
import pytest

from benchmarks import measure, tables
from benchmarks.measure import Contender, Data, Result
from scav_jax.distances import pairwise


@pytest.fixture
def data() -> Data:
    return measure.clips(4, 3, 5, 8)


def contender(name: str, result: Result, **details) -> Contender:
    return Contender(name, lambda: result, **details)


@pytest.mark.heavy
def test_a_quick_run_of_all_sections_writes_tables_and_a_picture(shell, tmp_path):
    done = shell("-m", "benchmarks.distances", "--quick", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "distances.md").read_text()
    for title in ("Soft-DTW", "Wasserstein", "Interpolated Euclidean", "Temporaries", "float64", "Scaling", "limits"):
        assert title in text
    assert "ott-jax" in text
    assert "failed" not in text
    assert done.stdout == text + "\n"
    assert (tmp_path / "distances.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.heavy
def test_a_quick_run_sets_a_training_step_beside_the_same_in_torch(shell):
    done = shell("-m", "benchmarks.train_step", "--quick")
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    steps = [row for row in rows if row[5].strip().startswith("eager")]
    assert [row[1].strip() for row in steps] == ["cosine", "dtw"]
    assert all(float(row[9]) < 1e-4 for row in steps)  # losses of the first step


@pytest.mark.heavy
def test_a_step_at_scale_takes_about_what_was_planned(shell):
    done = shell("-m", "benchmarks.scale", "--distance=euclidean", "--clips=1024")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["peak"] > found["added"]
    # Threads and allocator add tens of MiB, which weigh less in the benchmark's own size.
    assert 0.7 < found["added"] / found["planned"] < 1.6


@pytest.mark.parametrize(("module", "known"), [("distances", "wasserstein"), ("search", "own melodies")])
def test_an_unknown_section_is_named_before_anything_runs(shell, module, known):
    done = shell("-m", f"benchmarks.{module}", "--only=nothing")
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert known in done.stderr


def test_frames_have_norm_1_and_matched_clips_are_the_closest(data):
    assert np.linalg.norm(data.x, axis=-1) == pytest.approx(1, abs=1e-6)
    distances = np.asarray(pairwise("dtw", data.x, data.y, gamma=0))
    assert (distances.argmin(axis=1) == np.arange(4)).all()


def test_the_gradients_that_are_timed_are_those_of_the_weighted_sum(data):
    result = measure.jax_contender("", lambda x, y: x.sum(axis=(1, 2))[:, None] * y.sum(axis=(1, 2))[None], data).run()
    sums = np.asarray(data.y).sum(axis=(1, 2))
    expected = np.broadcast_to((np.asarray(data.weights) @ sums)[:, None, None], data.x.shape)
    assert np.asarray(result.x_gradient) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_peer_whose_gradients_differ_is_named_and_not_timed():
    ours = contender("ours", Result(np.ones(3), np.ones(2), np.ones(2)))
    wrong = contender("wrong", Result(np.ones(3), np.ones(2), np.full(2, 1.1)))
    nan = contender("NaN", Result(np.ones(3), np.full(2, np.nan), np.ones(2)))
    result = measure.compare(ours, [lambda: wrong, lambda: nan], seconds=0)
    assert result.peer is None
    assert "wrong" in result.note
    assert "NaN" in result.note


def test_the_fastest_setting_is_taken_and_a_failing_one_is_named(monkeypatch):
    def broken():
        raise RuntimeError("out of memory")

    once = {"ours": 1.0, "slow": 3.0, "fast": 2.0}
    runs = {name: contender(name, Result(np.ones(1))) for name in once}
    names = {entry.run: name for name, entry in runs.items()}
    monkeypatch.setattr(measure, "timed", lambda run: once[names[run]])
    result = measure.compare(runs["ours"], [lambda: runs["slow"], broken, lambda: runs["fast"]], seconds=0)
    assert result.peer is runs["fast"]
    assert result.ratio == 2
    assert "out of memory" in result.note
    assert "slow" in result.note


def test_a_target_is_met_from_its_value_on():
    assert [tables.met(value, 4, 6) for value in (3.9, 4, 6)] == ["no", "yes", "yes, stretch too"]
    assert tables.met(None, 4) == tables.met(5, None) == tables.NONE
    table = tables.Table("", ("what", "met"), rows=[("a", "yes, stretch too"), ("b", "no"), ("c", "-")])
    assert table.verdicts() == [True, False]
