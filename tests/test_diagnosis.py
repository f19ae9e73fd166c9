"""Runs that fail in silence are provoked, and say so once; healthy ones say nothing."""

import csv
import itertools
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_step
from conftest import REPOSITORY
from started import rows
from test_entry import train

import eval as retrieval
from configs import base
from configs import marimba as demo
from scav_jax import cli, diagnosis, evaluation, parallel, training
from scav_jax.diagnosis import BEHIND, CHANCE, COLLAPSE, MEMORY, Diagnosis
from scav_jax.features.store import Facts

STEPS = 40

with (REPOSITORY / "tests" / "golden" / "healthy_runs.csv").open() as file:  # of `make demo`, to four digits
    HEALTHY = {
        name: [{key: float(value) for key, value in row.items()} for row in rows]
        for name, rows in itertools.groupby(csv.DictReader(file), lambda row: row.pop("trained_with"))
    }


def trained(data=None, **changes):
    """What the log says of a small run on one batch, and its rows."""
    config = small_step.config(steps=STEPS, **{f"model.{name}.dropout": 0.0 for name in ("visual", "audio")})
    config.recipe.euclidean.learning_rate = 1e-2
    config.update_from_flattened_dict(changes)
    step = jax.jit(lambda state, batch: training.train_step(config, state, batch))
    state, found, said = training.init(config), [], []
    judge = Diagnosis(config, "euclidean")
    for number in range(1, STEPS + 1):
        state, metrics = step(state, small_step.batch(False) if data is None else data)
        found.append({"step": number, **{key: float(value) for key, value in metrics.items()}})
        said += judge.lines(found[-1])
    return said, found


def alike():
    """A batch of one clip."""
    return jax.tree.map(lambda leaf: np.repeat(leaf[:1], len(leaf), axis=0), small_step.batch(False))


def test_a_run_that_learns_says_nothing():
    said, found = trained()
    assert said == []
    assert found[-1]["loss_over_chance"] < 0.7
    assert found[-1]["loss_over_chance"] == pytest.approx(found[-1]["loss"] / np.log(small_step.CLIPS))


def test_no_learning_rate_leaves_the_loss_at_chance():
    (line,), _ = trained(**{"recipe.euclidean.learning_rate": 1e-9})
    assert line.startswith(CHANCE)
    assert "recipe.euclidean.learning_rate" in line
    assert "\n" not in line


@pytest.mark.parametrize("cause", ["weight decay", "clips alike"])
def test_distances_collapse(cause):
    """Weight decay whose product with the learning rate is 1 takes away all that was learned, at every step."""
    said, found = trained(**{"optimizer.weight_decay": 100.0}) if cause == "weight decay" else trained(alike())
    (line,) = (line for line in said if line.startswith(COLLAPSE))
    assert "optimizer.weight_decay" in line
    assert "\n" not in line
    assert found[-1]["distance_deviation"] < 0.025 * found[-1]["mean_distance"]


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_of_the_demo_say_nothing(name):
    judge = Diagnosis(demo.get_config(), name)
    assert len(HEALTHY[name]) == 26
    assert [line for row in HEALTHY[name] for line in judge.lines(row)] == []


def test_warm_up_and_what_a_resumed_run_has_said_say_nothing():
    config = base.get_config()
    config.steps = 1000
    healthy = HEALTHY["euclidean"][-1]

    def at_chance(steps):
        return [healthy | {"step": step, "loss_over_chance": 1.0} for step in steps]

    def said(found, earlier=()):
        judge = Diagnosis(config, "euclidean", earlier)
        return [row["step"] for row in found for _ in judge.lines(row)]

    warm_up, rest = at_chance(range(1, 51)), at_chance(range(60, 1001, 10))
    assert said([*warm_up, *(healthy | {"step": row["step"]} for row in rest)]) == []
    assert said([*warm_up, *rest]) == [160]  # once, a tenth of the run after the first row that counts
    assert said(rest[5:], [*warm_up, *rest[:5]]) == [160]
    assert said(rest[20:], [*warm_up, *rest[:20]]) == []


CLIPS = 24
FACTS = Facts(np.arange(CLIPS).astype(str), *3 * [np.full(CLIPS, "")])


def encoded(reversed_share=1.0):
    """Sequences of distinct frames whose sounds, or so many of them, run backwards: their means are the pictures'."""
    frames = np.random.default_rng(0).normal(size=(CLIPS, 4, 32)).astype(np.float32)
    backwards = np.arange(CLIPS) < reversed_share * CLIPS
    sounds = np.where(backwards[:, None, None], frames[:, ::-1], frames)
    return {"visual": (frames, None), "audio": (sounds, None)}


@pytest.mark.parametrize(
    ("method", "reversed_share", "said"), [("scav", 1.0, True), ("scav", 0.05, False), ("cav", 1.0, False)]
)
def test_sequence_behind_aggregate_in_training(method, reversed_share, said):
    config = base.get_config()
    config.method = method
    mesh = parallel.make_mesh(jax.devices()[:1])
    judge = Diagnosis(config, "euclidean")
    row = {"step": 9, **evaluation.quick_metrics(config, encoded(reversed_share), mesh, FACTS)}
    lines = judge.lines(row)
    assert [line.startswith(BEHIND) for line in lines] == [True] * said
    assert judge.lines(row) == []
    assert ("eval_sequence_gain" in row) == (method == "scav")


@pytest.fixture(scope="module")
def stuck(shell, marimba, tmp_path_factory):
    """A run by train.py that cannot learn: (workdir, what it printed, what it printed once it was resumed)."""
    workdir = tmp_path_factory.mktemp("runs") / "stuck"
    options = [f"--config.steps={STEPS}", "--config.log_every_steps=1", "--config.recipe.euclidean.learning_rate=1e-9"]
    first = train(shell, marimba / "store", workdir, *options)
    assert first.returncode == 0, first.stderr
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    again = train(shell, marimba / "store", workdir, *options)
    assert again.returncode == 0, again.stderr
    return workdir, first.stdout, again.stdout


@pytest.mark.heavy
def test_train_prints_its_line_once_a_run(stuck):
    workdir, first, again = stuck
    assert first.count(CHANCE) == 1
    assert "resuming" in again
    assert "warning: " not in again
    assert [row["step"] for row in rows(workdir) if "loss_over_chance" in row] == list(range(1, STEPS + 1))


@pytest.mark.heavy
def test_eval_prints_that_sequence_is_behind(stuck, monkeypatch, capsys):
    """The encoder is taken away: its sequences are those of a model that knows what, but not when."""

    def encode_split(config, encoder, mesh, parameters, store, split, *, members):
        frames = np.random.default_rng(0).normal(size=(len(members), 4, 32)).astype(np.float32)
        return {"visual": (frames, None), "audio": (frames[:, ::-1], None)}

    monkeypatch.setattr(evaluation, "encode_split", encode_split)
    retrieval.evaluate(stuck[0], retrieval.What())
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert line.startswith(BEHIND)


def test_too_little_memory_is_one_line_and_an_exit_code(monkeypatch, capsys):
    """XLA's own refusal, of 16 TiB: when a compiled program runs."""

    def main():
        jax.block_until_ready(jax.jit(lambda x: jnp.zeros((2**20, 2**22)) + x)(1.0))

    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(main, diagnosis.TRAINING_REMEDY)
    assert stopped.value.code == cli.BAD_DATA
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {MEMORY}: RESOURCE_EXHAUSTED: Out of memory allocating 17592186044416 bytes")
    for key in ("micro_batch_size", "stream_distances", "distance.tile_size", "eval.batch_size", "--plan"):
        assert key in line
    assert diagnosis.out_of_memory(ValueError("RESOURCE_EXHAUSTED"), "") == ""


def test_the_page_has_every_line_and_no_other():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    table = re.findall(r"^\| `((?:warning|error): [^`]*)` \|", page, re.MULTILINE)
    assert table == [f"error: {name}" if name == MEMORY else name for name in diagnosis.SIGNATURES]
