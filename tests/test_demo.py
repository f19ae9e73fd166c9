"""demo.py from data to report in a copy of the repository, on a small world and few steps."""

import json
import re
import shutil

import pytest
from conftest import REPOSITORY

KEYS = {"method", "trained_with", "seed", "mode", "distance", "direction", "subset", "k"}
KEYS |= {"R@1", "R@5", "R@10", "MedR", "MRR"}


# What makes a copy's demo small: fewer layers and iterations, which tell nothing about how its parts fit together.
SMALLER = {
    "configs/marimba.py": [("num_layers=2", "num_layers=1"), ("num_iterations = 30", "num_iterations = 3")],
    "scav_jax/models/clip.py": [("num_layers=12, num_heads=12, patch=32", "num_layers=1, num_heads=12, patch=32")],
    "scav_jax/models/beats.py": [("encoder_layers: int = 12", "encoder_layers: int = 1")],
}


@pytest.fixture(scope="module")
def clone(marimba, tmp_path_factory):
    """The source tree, made small, with a small marimba store in the demo's place."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("train.py", "eval.py", "demo.py"):
        shutil.copy(REPOSITORY / name, folder)
    sources_only = shutil.ignore_patterns("world", "store", "clip+beats", "__pycache__")
    for name in ("configs", "data", "scav_jax"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=sources_only)
    for name, changes in SMALLER.items():
        text = (folder / name).read_text()
        for before, after in changes:
            assert text.count(before) == 1
            text = text.replace(before, after)
        (folder / name).write_text(text)
    for name in ("world", "store"):
        shutil.copytree(marimba / name, folder / "data" / "marimba" / name)
    return folder


@pytest.mark.heavy
def test_demo_trains_evaluates_and_reports_once(shell, clone):
    first = shell("demo.py", "--steps=2", cwd=clone)
    assert first.returncode == 0, first.stderr
    report = clone / "runs" / "demo" / "report.html"
    assert first.stdout.splitlines()[-1] == str(report)
    assert re.search(r"\d s  train dtw, seed 0\n", first.stdout)
    assert re.search(r"\d s  write the report\n.*\d s  in all\n", first.stdout)
    assert "<html" in report.read_text()
    rows = json.loads((clone / "runs" / "demo" / "summary.json").read_text())["rows"]
    assert all(row.keys() >= KEYS for row in rows)
    trained = {("cav", "cosine"), ("scav", "euclidean"), ("scav", "dtw"), ("scav", "wasserstein")}
    assert {(row["method"], row["trained_with"]) for row in rows} == trained
    assert {(row["direction"], row["seed"]) for row in rows} == {("v2a", 0), ("a2v", 0)}
    assert {"all", "order", "timing"} < {row["subset"] for row in rows}

    runs = {path: path.read_bytes() for path in (clone / "runs" / "demo").rglob("metrics.json*")}
    again = shell("demo.py", "--steps=2", cwd=clone)
    assert again.returncode == 0, again.stderr
    assert "train.py" not in again.stdout
    assert "eval.py" not in again.stdout
    assert again.stdout.splitlines()[-1] == str(report)
    assert {path: path.read_bytes() for path in runs} == runs
    assert json.loads((clone / "runs" / "demo" / "summary.json").read_text())["rows"] == rows


@pytest.mark.heavy
def test_demo_with_networks_of_random_weights(shell, clone):
    done = shell("demo.py", "--steps=2", "--extractor=clip+beats", cwd=clone)
    assert done.returncode == 0, done.stderr
    run = clone / "runs" / "demo-clip+beats"
    assert done.stdout.splitlines()[-1] == str(run / "report.html")
    protocol = json.loads((run / "euclidean-seed0" / "eval" / "metrics.json").read_text())["protocol"]
    assert {name: (entry["name"], entry["weights"]) for name, entry in protocol["extractors"].items()} == {
        "visual": ("clip", "random"),
        "audio": ("beats", "random"),
    }
    ledger = json.loads((clone / "data" / "marimba" / "clip+beats" / "store" / "ledger.json").read_text())
    assert {name: (entry["width"], entry["rate_hz"]) for name, entry in ledger["modalities"].items()} == {
        "visual": (512, 4.0),
        "audio": (768, 6.25),
    }


def test_weights_without_networks_are_refused(shell, clone):
    done = shell("demo.py", "--clip-weights=x", cwd=clone)
    assert done.returncode == 2
    assert "--clip-weights, --beats-weights: expected with --extractor=clip+beats" in done.stderr
