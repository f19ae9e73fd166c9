"""Bad input to the entry points: a non-zero exit, one line that names the culprit, nothing half-written."""

import numpy as np
import pytest
from conftest import REPOSITORY

USAGE, BAD_DATA = 2, 1


def error_line(process, code):
    """The one line of an expected failure."""
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr
    return errors[0]


BAD_CONFIGS = [
    (["--config.lerning_rate=1"], USAGE, "lerning_rate: unknown key; did you mean recipe.cosine.learning_rate"),
    (["--config.optimiser.b1=0.8"], USAGE, "optimiser.b1: unknown key; did you mean optimizer.b1?"),
    (["--config.steps=abc"], USAGE, "config.steps=abc: invalid literal"),
    (["--config.method=foo"], USAGE, "method: expected one of cav, scav, got 'foo'"),
    (["--config.distance.name=foo"], USAGE, "distance.name: expected one of "),
    (["--config.model.visual.num_heads=7"], USAGE, "model.visual.width: expected a multiple of num_heads = 7"),
    (["--config.batch_size=999"], BAD_DATA, "batch_size: expected 1 to 64, the clips to train on, got 999"),
    (["--config.data.store=/nope"], BAD_DATA, "/nope: expected a store with a ledger.json, found none"),
    (["--config.data.train_split=foo"], USAGE, "data.train_split: expected one of train, val, test, got 'foo'"),
    (["stray"], USAGE, "unexpected argument 'stray'"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD_CONFIGS)
def test_a_config_that_cannot_run_leaves_no_run(shell, marimba, tmp_path, arguments, code, message):
    store = f"--config.data.store={marimba / 'store'}"
    process = shell("train.py", "--config=configs/marimba.py", f"--workdir={tmp_path / 'run'}", store, *arguments)
    assert message in error_line(process, code)
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py"], "--config: expected a value"),
        (["train.py", "--config=configs/marimba.py"], "--workdir: expected a value"),
        (["train.py", "--config=configs/nope.py", "--workdir=nowhere"], "configs/nope.py"),
        (["eval.py"], "--workdir: expected the folder of a run"),
        (["eval.py", "--workdir=nowhere", "--k=ten"], "flag --k=['ten']: expected whole numbers above 0"),
    ],
)
def test_missing_or_wrong_flags(shell, arguments, message):
    assert message in error_line(shell(*arguments), USAGE)
    assert not (REPOSITORY / "nowhere").exists()


def test_a_config_file_that_misspells_a_key(shell, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs import base\n\ndef get_config():\n"
        "    config = base.get_config()\n    config.stesp = 3\n    return config\n"
    )
    line = error_line(shell("train.py", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"), USAGE)
    assert "stesp" in line
    assert 'Did you mean "steps"' in line
    assert not (tmp_path / "run").exists()


def test_eval_of_a_folder_that_is_no_run(shell, tmp_path):
    line = error_line(shell("eval.py", f"--workdir={tmp_path}"), BAD_DATA)
    assert f"workdir: expected the folder of a run that train.py began, {tmp_path}/config.json is missing" in line
    assert not list(tmp_path.iterdir())


def test_eval_of_a_run_without_checkpoint(shell, tmp_path):
    from configs import base
    from scav_jax.config import save

    save(base.get_config(), tmp_path / "config.json")
    line = error_line(shell("eval.py", f"--workdir={tmp_path}"), BAD_DATA)
    assert f"{tmp_path}: expected a checkpoint, found none" in line
    assert not (tmp_path / "eval").exists()


@pytest.fixture
def features(tmp_path, rng):
    """A folder of four good clips."""
    folder = tmp_path / "features"
    folder.mkdir()
    for clip in range(4):
        np.savez(folder / f"clip{clip}.npz", visual=rng.normal(size=(6, 4)), audio=rng.normal(size=(9, 3)))
    return folder


@pytest.mark.parametrize("fault", ["missing folder", "other width", "NaN"])
def test_own_features_that_cannot_be_packed(shell, features, tmp_path, rng, fault):
    visual, audio = rng.normal(size=(6, 4)), rng.normal(size=(9, 3))
    if fault == "missing folder":
        features, message = tmp_path / "none", str(tmp_path / "none")
    elif fault == "other width":
        np.savez(features / "clip3.npz", visual=visual, audio=audio[:, :2])
        message = "clip3.npz: audio: expected width 3"
    else:
        visual[2, 1] = np.nan
        np.savez(features / "clip3.npz", visual=visual, audio=audio)
        message = "clip3.npz: visual: expected finite numbers, got 1 NaN"
    process = shell("-m", "data.own", f"--features={features}", f"--out={tmp_path / 'store'}")
    assert message in error_line(process, BAD_DATA)
    assert {path.name for path in tmp_path.iterdir()} <= {"features"}


def test_extracting_an_empty_film(shell, marimba, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    good = next((marimba / "world" / "media" / "val").glob("*.mp4"))
    (media / good.name).write_bytes(good.read_bytes())
    (media / "empty.mp4").touch()
    process = shell("-m", "scav_jax.features.extract", f"--media={media}", f"--out={tmp_path / 'out'}", "--workers=1")
    assert "1 bad files" in error_line(process, BAD_DATA)
    assert f"{media / 'empty.mp4'}: zero bytes" in process.stderr
    assert [path.stem for path in (tmp_path / "out").glob("*.npz")] == [good.stem]
    assert "empty.mp4" in (tmp_path / "out" / "skipped.csv").read_text()


def test_marimba_into_a_folder_of_another_world(shell, marimba):
    process = shell("-m", "data.marimba", f"--out={marimba}", "--seed=0", "--scale=0.07")
    assert f"{marimba / 'world'}: holds the world of" in error_line(process, BAD_DATA)
