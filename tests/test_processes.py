"""Two processes over localhost train as one does, and stop together."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import REPOSITORY
from small_step import TOLERANCE, assert_same
from started import begin, finish, rows

from scav_jax import config as configs
from scav_jax.checkpoint import Checkpoints
from scav_jax.distances import DISTANCES
from scav_jax.losses import NORMALIZATIONS
from scav_jax.processes import STOPPED

pytestmark = pytest.mark.heavy  # every test starts whole runs
MORE = 5  # rows after a resume
OPTIONS = [
    "--config=configs/marimba.py",
    "--config.steps=400",
    "--config.batch_size=8",
    "--config.eval.every_fraction=0.01",
    "--config.log_every_steps=1",
    *(f"--config.model.{tower}.num_layers=1" for tower in ("visual", "audio")),
]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def with_devices(environment, count):
    flags = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return {**environment, "XLA_FLAGS": flags}


@pytest.fixture(scope="module")
def start(shell_environment, marimba):
    """start(workdir, ...) begins train.py, or another script, in `count` processes of `devices` devices each."""

    def start(workdir, count=1, devices=1, script="train.py", more=()):
        port = free_port()
        flags = [f"--workdir={workdir}"]
        if script == "train.py":
            flags += [*OPTIONS, f"--config.data.store={marimba / 'store'}", *more]
        environment = with_devices(shell_environment, devices)
        found = []
        for index in range(count):
            told = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={index}"] * (count > 1)
            found.append(begin(script, *flags, *told, environment=environment))
        return found

    return start


def finish_all(processes, code=0):
    return [finish(process, code) for process in processes]


def wait_for_rows(processes, workdir, count):
    deadline = time.monotonic() + 200
    while len(rows(workdir)) < count:
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Stopped(NamedTuple):
    """A run of two processes stopped by SIGTERM to the second, and gone on with by one of four devices, and beside it
    one that nothing happened to."""

    folder: Path
    outputs: list[str]
    rows: list[dict]
    step: int
    resumed_rows: list[dict]
    alone_rows: list[dict]


@pytest.fixture(scope="module")
def stopped(start, tmp_path_factory):
    workdir, alone = tmp_path_factory.mktemp("stopped") / "run", tmp_path_factory.mktemp("alone") / "run"
    both = start(workdir, count=2)
    wait_for_rows(both, workdir, 4)
    both[1].send_signal(signal.SIGTERM)
    outputs = [out for out, _ in finish_all(both, STOPPED)]
    found, config = rows(workdir), configs.load(workdir / "config.json")
    with closing(Checkpoints(workdir, config.checkpoint.keep, read_only=True)) as checkpoints:
        step = checkpoints.latest_step
    (resumed,), (undisturbed,) = start(workdir, devices=4), start(alone)
    for process, where in ((resumed, workdir), (undisturbed, alone)):
        wait_for_rows([process], where, len(found) + MORE)
        process.send_signal(signal.SIGTERM)
    out, _ = finish(resumed, STOPPED)
    assert f"resuming {workdir} at step {step}\n" in out
    finish(undisturbed, STOPPED)
    return Stopped(workdir, outputs, found, step, rows(workdir), rows(alone))


def assert_same_rows(found, expected, tolerance):
    for row, twin in zip(found, expected, strict=False):
        assert (row["step"], row.get("ids_crc32")) == (twin["step"], twin.get("ids_crc32"))
        for key in (key for key in row if not key.endswith("_s")):
            np.testing.assert_allclose(row[key], twin[key], tolerance, err_msg=f"{key} at step {row['step']}")


def test_two_processes_train_as_one(stopped):
    assert "process 0 of 2, 1 of 2 devices" in stopped.outputs[0]
    assert "process 1 of 2" in stopped.outputs[1]
    assert any("eval_v2a_R@1" in row for row in stopped.rows)
    assert_same_rows(stopped.rows, stopped.alone_rows, 1e-3)


def test_sigterm_to_one_process_saves_the_same_step_in_both(stopped):
    assert stopped.step == stopped.rows[-1]["step"]
    assert f"saved at step {stopped.step}\n" in stopped.outputs[0]
    assert "saved" not in stopped.outputs[1]  # it has nothing to say


def test_another_device_count_goes_on_with_the_same_clips_and_losses(stopped):
    assert stopped.resumed_rows[-1]["step"] > stopped.step
    assert stopped.resumed_rows[: len(stopped.rows)] == stopped.rows
    assert_same_rows(stopped.resumed_rows, stopped.alone_rows, 1e-2)


def test_two_processes_evaluate_as_one(start, stopped):
    found = []
    for count in (1, 2):
        finish_all(start(stopped.folder, count=count, script="eval.py"))
        found.append((stopped.folder / "eval" / "metrics.json").read_text())
    assert found[0] == found[1]


def test_two_processes_have_the_gradient_of_one(shell_environment, tmp_path):
    """Loss and every parameter's gradient, ragged clips, dropout on: every distance and every normalisation once, for
    test_parallel.py has all pairs of them on several devices of one process."""
    command = [sys.executable, "tests/small_step.py", "--cases"]
    command += [f"{distance}-{kind}" for distance, kind in zip(DISTANCES, NORMALIZATIONS, strict=True)]
    environment = {**with_devices(shell_environment, 2), "PYTHONPATH": str(REPOSITORY)}

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
def test_the_one_that_is_left_ends_and_says_so(fault, start, tmp_path):
    workdir = tmp_path / "left"
    both = start(workdir, count=2, more=("--config.steps=10000", "--stuck_after_s=20"))
    wait_for_rows(both, workdir, 3)
    both[1].send_signal(fault)
    _, err = both[0].communicate(timeout=300)
    both[1].kill()
    both[1].communicate()
    assert both[0].returncode != 0
    assert "error: process 0 of 2: nothing ended for 20 s" in err or "UNAVAILABLE" in err or "heartbeat" in err, err
