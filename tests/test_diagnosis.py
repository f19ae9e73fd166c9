"""Runs that fail in silence say so, once, in one line; healthy ones say nothing."""

import json

import numpy as np
import pytest
from conftest import REPOSITORY

from configs import marimba
from data.own.__main__ import main as make_store
from scav_jax import diagnosis, evaluation
from scav_jax.diagnosis import BEHIND, CHANCE, COLLAPSE, MEMORY, Diagnosis
from scav_jax.evaluation import Ranking
from scav_jax.features.store import Facts

HEALTHY = {"mean_distance": 1.0, "distance_deviation": 0.1}
PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()


def steps(count=20, every=10, **row):
    return [{"step": every * (1.0 + index), "loss_over_chance": 0.5, **HEALTHY, **row} for index in range(count)]


def said(rows, earlier=(), **config):
    settings = marimba.get_config()
    settings.update(config)
    found = Diagnosis(settings, "euclidean", earlier)
    return [line for row in rows for line in found.lines(row)]


def test_a_healthy_run_says_nothing():
    falling = [
        {**row, "loss_over_chance": share} for row, share in zip(steps(), np.geomspace(1.1, 0.1, 20), strict=True)
    ]
    assert said(falling) == []


def test_a_loss_at_chance_is_said_once_and_not_again_after_a_resume():
    rows = steps(loss_over_chance=1.0)
    (line,) = said(rows)
    assert line.startswith(CHANCE)
    assert "recipe.euclidean.learning_rate" in line
    assert "\n" not in line
    assert said(rows[10:], earlier=rows[:10]) == []


def test_a_loss_that_leaves_chance_within_a_tenth_of_the_run_is_healthy():
    rows = steps(2, loss_over_chance=1.0) + [{**row, "step": row["step"] + 20.0} for row in steps()]
    assert said(rows) == []


@pytest.mark.parametrize("mean", [1.0, -1.0])
def test_distances_that_hardly_differ_have_collapsed(mean):
    (line,) = said(steps(mean_distance=mean, distance_deviation=1e-4))
    assert line.startswith(COLLAPSE)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """A store of clips that nobody can tell apart."""
    folder = tmp_path_factory.mktemp("alike")
    (folder / "npz").mkdir()
    rows = ["id,split,label,group,subset"]
    visual, audio = (np.arange(size, dtype=np.float32).reshape(-1, 4) for size in (20, 24))
    for clip in range(16):
        np.savez(folder / "npz" / f"v{clip}.npz", visual=visual, audio=audio)
        rows.append(f"v{clip},{'train' if clip < 8 else 'val' if clip < 12 else 'test'},l,g{clip},")
    (folder / "clips.csv").write_text("\n".join(rows))
    given = ["--features", str(folder / "npz"), "--clips", str(folder / "clips.csv"), "--out", str(folder / "store")]
    assert make_store(given) == 0
    return folder / "store"


def test_a_run_on_clips_that_are_all_alike_names_both_signatures(shell, alike, tmp_path):
    small = [f"--config.model.{tower}.{key}=16" for tower in ("visual", "audio") for key in ("width", "mlp_width")]
    small += [f"--config.model.{tower}.dropout=0" for tower in ("visual", "audio")]
    done = shell(
        *("train.py", "--config=configs/marimba.py", f"--workdir={tmp_path / 'run'}", f"--config.data.store={alike}"),
        *("--config.steps=40", "--config.batch_size=8", "--config.log_every_steps=5", *small),
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "warning" in line]
    assert sum(CHANCE in line for line in lines) == 1
    assert sum(COLLAPSE in line for line in lines) == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["loss_over_chance"] == pytest.approx(row["loss"] / np.log(8)) for row in rows if "loss" in row)


def gain(sequence, aggregate, method="scav"):
    """evaluation.sequence_gain of two matrices of distances, and its line."""
    settings = marimba.get_config()
    settings.method = method
    everyone = np.arange(len(sequence))
    nothing = np.full(len(sequence), "")
    facts = Facts(everyone.astype(str), nothing, nothing, nothing)
    rankings = [
        Ranking(mode, name, direction, "all", None, everyone, distances)
        for mode, name, distances in (("sequence", "euclidean", sequence), ("aggregate", "cosine", aggregate))
        for direction in evaluation.DIRECTIONS
    ]
    return diagnosis.sequence_behind(evaluation.sequence_gain(settings, rankings, facts))


def test_sequences_that_find_less_than_averages_are_named(rng):
    right, wrong = 1 - np.eye(40), np.roll(1 - np.eye(40), 1, axis=1)
    assert gain(wrong, right).startswith(BEHIND)
    assert gain(right, wrong) == gain(right, right) == ""
    assert gain(wrong, right, method="cav") == ""


def test_a_difference_within_its_interval_is_not_named():
    right = 1 - np.eye(40)
    one_wrong = right.copy()
    one_wrong[0, [0, 1]] = 1, 0
    assert gain(one_wrong, right) == ""


def test_too_little_memory_is_one_line_that_says_what_to_change(shell):
    program = (
        "import jax, jax.numpy as jnp; from scav_jax import cli, diagnosis\n"
        "def main():\n"
        "    jax.jit(lambda key: jnp.zeros((2**20, 2**22)) + jax.random.normal(key, (1, 1)))(jax.random.key(0))\n"
        "cli.run(main, diagnosis.TRAINING_REMEDY)"
    )
    done = shell("-c", program)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert MEMORY in line
    assert "micro_batch_size" in line
    assert "--plan" in line


def test_other_errors_are_not_taken_for_that():
    assert diagnosis.out_of_memory(ValueError("RESOURCE_EXHAUSTED"), "") == ""


@pytest.mark.parametrize("signature", diagnosis.SIGNATURES)
def test_the_page_has_every_signature(signature):
    assert f"`{signature}" in PAGE
