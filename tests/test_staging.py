"""Staged stores: each file copied once and whole, whatever was cut short before and however many start at once."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_pipeline import make_store
from test_store import RATES_HZ, write_features

from scav_jax.features import staging
from scav_jax.features.checks import FeatureError
from scav_jax.features.staging import open_staged
from scav_jax.features.store import LEDGER, build, open_store


@pytest.fixture
def store(tmp_path):
    features, clips_csv, _ = write_features(tmp_path / "features", 8, np.random.default_rng(0))
    build(features, tmp_path / "store", clips_csv, rates_hz=RATES_HZ)
    return tmp_path / "store"


@pytest.fixture
def copies(monkeypatch):
    """The names of the files copied, in order."""
    names, copy = [], staging._copy
    monkeypatch.setattr(staging, "_copy", lambda source, *rest: (names.append(source.name), copy(source, *rest)))
    return names


def contents(folder):
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {
        file.relative_to(folder).as_posix(): json.loads(file.read_text()) if file.name == LEDGER else file.read_bytes()
        for file in files
    }


def test_a_local_store_is_its_own_unless_told_otherwise(store, tmp_path):
    assert open_staged(store).path == store
    folder = open_staged(store, str(tmp_path / "stage")).path
    assert folder.parent == tmp_path / "stage"
    assert contents(folder) == contents(store)
    open_store(folder)


def test_what_is_there_is_not_copied_again(store, tmp_path, copies, capfd):
    folder = open_staged(store, str(tmp_path / "stage")).path
    assert sorted(copies) == sorted(name.rpartition("/")[2] for name in contents(store) if name != LEDGER)
    copies.clear()
    assert open_staged(store, str(tmp_path / "stage")).path == folder
    assert copies == []
    assert capfd.readouterr().err == ""  # progress is for long copies


def test_an_interrupted_copy_is_finished_by_the_next(store, tmp_path, copies, monkeypatch):
    def interrupted(bar, count):
        if len(copies) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging.tqdm, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_staged(store, str(tmp_path / "stage"))
    (left,) = (tmp_path / "stage").iterdir()
    assert len(list(left.rglob("*.partial"))) == 1
    with pytest.raises(FeatureError, match=f"expected a store with a {LEDGER}"):
        open_store(left)

    whole, half = copies
    copies.clear()
    assert open_staged(store, str(tmp_path / "stage")).path == left
    assert whole not in copies
    assert copies[0] == half
    assert contents(left) == contents(store)


def test_a_truncated_copy_is_copied_anew(store, tmp_path, copies):
    folder = open_staged(store, str(tmp_path / "stage")).path
    (shard,) = folder.rglob("*train.array_record*")
    shard.write_bytes(shard.read_bytes()[:-1])
    copies.clear()
    open_staged(store, str(tmp_path / "stage"))
    assert copies == [shard.name]
    assert contents(folder) == contents(store)


def test_a_truncated_source_is_refused_and_gets_no_name(store, tmp_path):
    path = store / "clips.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(FeatureError, match=rf"clips\.csv: expected {len(whole)} bytes, got {len(whole) - 1}"):
        open_staged(store, str(tmp_path / "stage"))
    (folder,) = (tmp_path / "stage").iterdir()
    assert not (folder / "clips.csv").exists()
    assert not (folder / LEDGER).exists()


def test_of_several_at_once_one_copies(store, tmp_path, copies):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: open_staged(store, str(tmp_path / "stage")).path, range(100)))
    assert len(folders) == 1
    assert len(copies) == len(set(copies)) == len(contents(store)) - 1
    assert contents(*folders) == contents(store)


def test_a_store_packed_anew_gets_a_folder_of_its_own(store, tmp_path):
    before = open_staged(store, str(tmp_path / "stage")).path
    ledger = json.loads((store / LEDGER).read_text())
    (store / LEDGER).write_text(json.dumps({**ledger, "dataset": "other"}))
    assert open_staged(store, str(tmp_path / "stage")).path != before


def test_a_copy_of_the_shards_that_are_needed(tmp_path, copies, monkeypatch):
    shards = "tensorflow_datasets.core.utils.shard_utils.ShardConfig.get_number_shards"
    monkeypatch.setattr(shards, lambda self, *sizes: 4)
    make_store(tmp_path, [1 + clip % 3 for clip in range(12)])

    def opened(needed):
        copies.clear()
        store = open_staged(tmp_path / "store", str(tmp_path / "stage"), needed)
        return store, [int(name[-14:-9]) for name in copies if "array_record" in name]

    store, copied = opened({"train": [range(3, 4), range(5, 7)], "other": [range(9)]})
    assert copied == [1, 2]
    clips = store.split("train")
    assert [clips[index]["index"] for index in range(3, 9)] == [3, 4, 5, 6, 7, 8]
    with pytest.raises(FeatureError, match=r"00003-of-00004: clip c09 cannot be read: this copy .* without the shard"):
        clips[9]
    with pytest.raises(FeatureError, match="got no file"):
        open_store(store.path)
    assert opened(None)[1] == [0, 3]
    assert opened({"train": [range(12)]})[1] == []
    assert open_store(store.path).split("train")[9]["index"] == 9


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_a_ledger_cannot_write_elsewhere(store, tmp_path, name):
    ledger = json.loads((store / LEDGER).read_text())
    (store / LEDGER).write_text(json.dumps({**ledger, "files": {name: 1}}))
    with pytest.raises(FeatureError, match=f"expected files below the store, got {name}"):
        open_staged(store, str(tmp_path / "stage"))


def test_a_full_disk_is_told_before_the_copy(store, tmp_path, monkeypatch):
    usage = staging.shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FeatureError, match=r"stage: expected [\d,]+ bytes free .*, got 1"):
        open_staged(store, str(tmp_path / "stage"))
