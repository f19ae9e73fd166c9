"""Two processes over localhost train as one does, and stop together."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import REPOSITORY
from small_step import TOLERANCE, assert_same

from scav_jax import config as configs
from scav_jax import training
from scav_jax.checkpoint import Checkpoints
from scav_jax.distances import DISTANCES
from scav_jax.losses import NORMALIZATIONS
from scav_jax.processes import STOPPED

STEPS = 6
OPTIONS = [
    "--config=configs/marimba.py",
    "--config.batch_size=8",
    "--config.log_every_steps=1",
    *(f"--config.model.{tower}.num_layers=1" for tower in ("visual", "audio")),
]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def start(shell_environment, marimba):
    """start(workdir, ...) begins train.py, or another script, in `count` processes of `devices` devices each."""

    def begin(workdir, steps=STEPS, count=1, devices=1, script="train.py", more=()):
        port = free_port()
        flags = [f"--workdir={workdir}", *more]
        if script == "train.py":
            flags += [*OPTIONS, f"--config.steps={steps}", f"--config.data.store={marimba / 'store'}"]
        environment = {**shell_environment, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        found = []
        for index in range(count):
            told = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={index}"] * (count > 1)
            command = [sys.executable, script, *flags, *told]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            found.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes))
        return found

    return begin


def finish(processes, code=0):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == code, err
    return outputs


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_and_evaluate_as_one(start, tmp_path):
    finish(start(tmp_path / "one"))
    (out, _), (other_out, _) = finish(start(tmp_path / "two", count=2))
    assert "process 0 of 2, 1 of 2 devices" in out
    assert "process 1 of 2" in other_out
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for row, twin in zip(one, two, strict=True):
        for key in (key for key in row if not key.endswith("_s")):
            np.testing.assert_allclose(twin[key], row[key], 1e-3, err_msg=key)
    found = []
    for count in (1, 2):
        finish(start(tmp_path / "two", count=count, script="eval.py"))
        found.append((tmp_path / "two" / "eval" / "metrics.json").read_text())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("distances", "normalizations"),
    [
        (("euclidean",), ("zscore",)),
        *(pytest.param((name,), NORMALIZATIONS, marks=pytest.mark.heavy, id=name) for name in DISTANCES),
    ],
)
def test_two_processes_have_the_gradient_of_one(distances, normalizations, shell_environment, tmp_path):
    """Loss and every parameter's gradient, ragged clips, dropout on."""
    command = [sys.executable, "tests/small_step.py", "--distances", *distances, "--normalizations", *normalizations]
    environment = {**shell_environment, "PYTHONPATH": str(REPOSITORY)}

    def gradients(out, *told):
        return subprocess.Popen([*command, f"--out={out}", *told], cwd=REPOSITORY, env=environment)

    coordinator = f"--coordinator=localhost:{free_port()}"
    both = [gradients(tmp_path / "two.npz", coordinator, f"--process={index}") for index in range(2)]
    both.append(gradients(tmp_path / "one.npz"))
    assert [process.wait(timeout=900) for process in both] == [0, 0, 0]
    two, one = np.load(tmp_path / "two.npz"), np.load(tmp_path / "one.npz")
    for case in {name.rpartition("-")[0] for name in one.files}:
        names = sorted(name for name in one.files if name.startswith(f"{case}-"))
        found, expected = (((leaves[0], {}), leaves[1:]) for leaves in ([run[n] for n in names] for run in (two, one)))
        assert_same(found, expected, TOLERANCE[case.rpartition("-")[2]])


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stuck"])
@pytest.mark.heavy
def test_the_one_that_is_left_ends_and_says_so(fault, start, tmp_path):
    workdir = tmp_path / "left"
    both = start(workdir, 10_000, 2, more=("--stuck_after_s=60",))
    wait_for_rows(both, workdir)
    both[1].send_signal(fault)
    _, err = both[0].communicate(timeout=300)
    both[1].kill()
    both[1].communicate()
    assert both[0].returncode != 0
    assert "error: process 0 of 2: nothing ended for 60 s" in err or "UNAVAILABLE" in err or "heartbeat" in err, err


def wait_for_rows(both, workdir):
    deadline = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() or len(rows(workdir)) < 3:
        assert all(process.poll() is None for process in both), [process.communicate() for process in both]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigterm_to_one_stops_both_and_another_device_count_goes_on(start, tmp_path):
    steps, workdir = 400, tmp_path / "stopped"
    both = start(workdir, steps, count=2)
    wait_for_rows(both, workdir)
    both[1].send_signal(signal.SIGTERM)
    (out, _), (other_out, _) = finish(both, STOPPED)
    config = configs.load(workdir / "config.json")
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    step = checkpoints.latest_step
    state, _ = checkpoints.restore(jax.eval_shape(lambda: training.init(config)))
    checkpoints.close()
    assert int(state.step) == step < steps
    assert f"saved at step {step}" in out
    assert "saved" not in other_out
    (resumed,) = start(workdir, steps, devices=4)
    while (line := resumed.stdout.readline()) and "resuming" not in line:
        pass
    assert int(re.search(r"at step (\d+)", line)[1]) == step
    resumed.send_signal(signal.SIGTERM)
    finish([resumed], STOPPED)
