"""Runs in a bucket: gs:// paths of a local server through train.py, a stop, a resume and eval.py."""

import importlib
import os
import re
import signal
import sys
from functools import partial

import numpy as np
import pytest
from bucket import BUCKET, serve, upload
from etils import epath
from started import begin, finish, rows
from test_store import RATES_HZ, write_features

from scav_jax import config as configs
from scav_jax import files
from scav_jax.features.checks import FeatureError
from scav_jax.features.staging import open_staged
from scav_jax.features.store import build, open_store
from scav_jax.logs import MetricsWriter
from scav_jax.results import load_run

STEPS = 8
OPTIONS = [
    "--config=configs/marimba.py",
    "--config.method=cav",
    f"--config.steps={STEPS}",
    "--config.batch_size=4",
    "--config.log_every_steps=1",
    "--config.checkpoint.every_fraction=0.25",
    *(
        f"--config.model.{tower}.{key}={value}"
        for tower in ("visual", "audio")
        for key, value in dict(width=8, mlp_width=8, ffn_width=8, num_heads=1, num_layers=1).items()
    ),
]


@pytest.fixture(scope="module")
def bucket():
    """gs://scav of a local server, for this process and those it starts."""
    with serve() as variables, pytest.MonkeyPatch.context() as patch:
        for key, value in variables.items():
            patch.setenv(key, value)
        yield f"gs://{BUCKET}"


@pytest.fixture(scope="module")
def local_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    features, clips_csv, _ = write_features(folder / "features", 24, np.random.default_rng(0))
    build(features, folder / "store", clips_csv, rates_hz=RATES_HZ)
    return folder / "store"


@pytest.fixture(scope="module")
def store(bucket, local_store):
    return str(upload(local_store, f"{bucket}/stores/toy"))


@pytest.fixture(scope="module")
def start(bucket, shell_environment, tmp_path_factory):
    """start("train.py", ...) begins it in the bucket's environment, with a cache of its own for staged stores."""
    variables = {key: value for key, value in os.environ.items() if key.startswith(("STORAGE", "TENSORSTORE", "GCSFS"))}
    cache = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    environment = {**shell_environment, **variables, **cache}

    return partial(begin, environment=environment)


def losses(workdir):
    return [(row["step"], row["loss"]) for row in rows(workdir) if "loss" in row]


@pytest.mark.heavy
def test_a_run_in_a_bucket_trains_stops_resumes_and_is_evaluated(start, bucket, store):
    workdir = epath.Path(f"{bucket}/runs/stopped")
    process = start("train.py", *OPTIONS, f"--config.data.store={store}", f"--workdir={workdir}")
    assert "single machine" in process.stdout.readline()
    assert "compiling" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = finish(process, code=75)
    assert f"{workdir} was told to stop and is saved at step 1" in out
    assert [step for step, _ in losses(workdir)] == [1]
    (workdir / "checkpoints" / "7" / "state" / "half").write_text("an upload that was cut short")

    out, _ = finish(start("train.py", *OPTIONS, f"--config.data.store={store}", f"--workdir={workdir}"))
    assert f"resuming {workdir} at step 1" in out
    assert [step for step, _ in losses(workdir)] == list(range(1, STEPS + 1))
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["6", "8"]
    assert all(int(path.stat().length) > 0 for path in (workdir / "tensorboard").iterdir())

    out, _ = finish(start("eval.py", f"--workdir={workdir}", "--k=2"))
    assert f"report: {workdir}/eval/report.html" in out
    run = load_run(workdir)
    assert run.name == "stopped"
    assert {row["mode"] for row in run.results} == {"aggregate", "sequence", "hybrid"}
    assert "<html" in (workdir / "eval" / "report.html").read_text()


@pytest.mark.heavy
def test_a_run_in_a_bucket_killed_at_any_moment_ends_as_one_in_a_folder(start, bucket, store, tmp_path):
    finish(start("train.py", *OPTIONS, f"--config.data.store={store}", f"--workdir={tmp_path / 'local'}"))
    workdir = epath.Path(f"{bucket}/runs/killed")
    command = ("train.py", *OPTIONS, f"--config.data.store={store}", f"--workdir={workdir}")
    process = start(*command)
    while not (workdir / "checkpoints" / "2" / "commit_success.txt").exists():
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    out, _ = finish(start(*command))
    assert int(re.search(r"resuming .* at step (\d+)", out)[1]) in (2, 4, 6)
    assert losses(workdir) == losses(tmp_path / "local")
    out, _ = finish(start(*command))
    assert f"{workdir} is complete at step {STEPS}" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train.py", "--workdir=gs://nowhere/run"], "gs://nowhere: expected a bucket that can be listed, got 404"),
        (["train.py", "--workdir=gs://scav/a", "--config.data.store=gs://scav/b"], "gs://scav/b: expected a store"),
        (["eval.py", "--workdir=gs://scav/none"], "gs://scav/none/config.json is missing"),
    ],
)
def test_what_is_missing_in_a_bucket_is_one_line(start, arguments, expected):
    config = ["--config=configs/marimba.py"] if arguments[0] == "train.py" else []
    _, err = finish(start(arguments[0], *config, *arguments[1:]), code=1)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_an_unreachable_bucket_and_missing_packages_say_what_to_do(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://localhost:1")
    with pytest.raises(OSError, match=r"gs://scav: expected a bucket .*refused.*check its name, the network"):
        files.at("gs://scav/run")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"gs://scav: expected gcsfs, .*pip install scav-jax\[gcs\]"):
        files.at("gs://scav/run")


@pytest.mark.parametrize("name", ["s3://bucket/run", "gs://", "https://storage.googleapis.com/bucket"])
def test_other_schemes_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected a local path or gs://bucket/folder"):
        files.at(name)


def test_a_stage_is_a_local_folder():
    config = importlib.import_module("configs.base").get_config()
    config.data.stage = "gs://bucket/stage"
    with pytest.raises(configs.ConfigError, match=r"data\.stage: expected a local folder, got gs://bucket/stage"):
        configs.check(config)


def test_files_are_written_whole_in_a_bucket(bucket):
    path = files.at(f"{bucket}/notes/a.json")
    assert files.in_bucket(path)
    assert files.absolute(path) == path
    files.write_whole(path, "é")
    files.write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_metrics_reach_a_bucket_when_flushed_and_when_closed(bucket):
    workdir = files.at(f"{bucket}/runs/rows")
    writer = MetricsWriter(workdir, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step})
        if step == 2:
            writer.flush()
    assert losses(workdir) == [(1, 1.0), (2, 2.0)]
    writer.close()
    assert losses(workdir) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    MetricsWriter(workdir, 2).close()
    assert losses(workdir) == [(1, 1.0), (2, 2.0)]


def test_metrics_reach_a_bucket_in_time_without_a_flush(bucket, monkeypatch):
    monkeypatch.setattr(files, "_LINES_EVERY_S", -1.0)
    lines = files.Lines(files.at(f"{bucket}/rows.jsonl"), ["1"])
    lines.add("2")
    assert files.at(f"{bucket}/rows.jsonl").read_text() == "1\n2\n"


def test_a_store_in_a_bucket_is_staged_in_the_cache(store, local_store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = open_staged(store).path
    assert folder.parent == tmp_path / "scav_jax"
    assert len(open_store(folder).split("train")) == len(open_store(local_store).split("train"))


def test_a_missing_object_of_a_store_is_named(bucket, local_store, tmp_path):
    damaged = upload(local_store, f"{bucket}/stores/damaged")
    (damaged / "clips.csv").unlink()
    with pytest.raises(FeatureError, match=rf"{damaged}/clips\.csv: expected \d+ bytes, got no file"):
        open_staged(str(damaged), str(tmp_path))
