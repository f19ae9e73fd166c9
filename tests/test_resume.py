"""A run killed at any moment and started again ends as the run left alone: the same parameters, bit for bit."""

import os
import re
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from started import begin, finish, rows

from scav_jax import config as configs
from scav_jax import training
from scav_jax.checkpoint import Checkpoints

STEPS = 24
OPTIONS = [
    "--config=configs/marimba.py",
    f"--config.steps={STEPS}",
    "--config.batch_size=8",
    "--config.log_every_steps=1",
    "--config.checkpoint.every_fraction=0.2",  # every 5 steps
    "--config.eval.every_fraction=0.25",
    *(f"--config.model.{tower}.num_layers=1" for tower in ("visual", "audio")),
]


@pytest.fixture(scope="module")
def start(shell_environment, marimba):
    """start(workdir) begins train.py there, in a process group of its own."""

    def start(workdir):
        command = ["train.py", *OPTIONS, f"--config.data.store={marimba / 'store'}", f"--workdir={workdir}"]
        return begin(*command, environment=shell_environment, start_new_session=True)

    return start


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def losses(workdir):
    """The training rows, without the clock's numbers."""
    found = [row for row in rows(workdir) if "loss" in row]
    return [{key: value for key, value in row.items() if not key.endswith("_s")} for row in found]


def final_state(workdir):
    config = configs.load(workdir / "config.json")
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    assert checkpoints.latest_step == STEPS
    state, position = checkpoints.restore(jax.eval_shape(lambda: training.init(config)))
    checkpoints.close()
    return jax.tree.map(np.asarray, state), position


def assert_same_run(workdir, other):
    (state, position), (twin, twin_position) = final_state(workdir), final_state(other)
    jax.tree.map(np.testing.assert_array_equal, state, twin)
    assert position == twin_position
    assert losses(workdir) == losses(other)


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """The run that nobody killed."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(workdir))
    assert [row["step"] for row in losses(workdir)] == list(range(1, STEPS + 1))
    return workdir


def test_a_run_killed_between_checkpoints_ends_as_the_one_left_alone(start, undisturbed, tmp_path):
    workdir = tmp_path / "killed"
    process = start(workdir)
    deadline = time.monotonic() + 300
    while len(losses(workdir)) < 7:  # the checkpoint of step 5 is complete
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    kill(process)
    reached = len(losses(workdir))
    assert reached < STEPS
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99')  # a row that the kill cut short
    out, _ = finish(start(workdir))
    resumed_at = int(re.search(r"resuming .* at step (\d+)", out)[1])
    assert resumed_at in range(5, reached + 1, 5)
    assert_same_run(workdir, undisturbed)


@pytest.mark.heavy
def test_a_run_killed_many_times_at_random_ends_as_the_one_left_alone(start, undisturbed, tmp_path, rng):
    began = time.monotonic()
    finish(start(tmp_path / "timed"))
    lasts_s = time.monotonic() - began
    workdir = tmp_path / "killed"
    for attempt in range(8):
        process = start(workdir)
        try:
            process.communicate(timeout=rng.uniform(0.1, 0.9) * lasts_s)
        except subprocess.TimeoutExpired:
            kill(process)
        else:  # done before its time: the next one begins afresh
            assert process.returncode == 0
            assert_same_run(workdir, undisturbed)
            workdir = tmp_path / f"killed_{attempt}"
    finish(start(workdir))
    assert_same_run(workdir, undisturbed)
