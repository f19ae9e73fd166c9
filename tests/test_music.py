"""MUSIC from made-up lists: videos cut into clips, none of them in two splits."""

import json
from collections import defaultdict

import pytest
from films import Levels, write_film

from data.music import NAME, read
from scav_jax.features.checks import FeatureError
from scav_jax.features.extract import Task, extract
from scav_jax.features.extractors import LogMel
from scav_jax.features.official import main
from scav_jax.features.store import open_store

SOLO = {"accordion": [f"accord-{number:02d}ab" for number in range(14)], "tuba": ["-tuba_00001", "gone_000002"]}
DUET = {"flute violin": ["duet_000001", "-tuba_00001"]}


def write_lists(folder, solo=SOLO):
    paths = folder / "solo.json", folder / "duet.json"
    for path, videos in zip(paths, (solo, DUET), strict=True):
        path.write_text(json.dumps({"videos": videos}))
    return [str(path) for path in paths]


def test_no_video_is_in_two_splits(tmp_path, capsys):
    videos = tmp_path / "videos"
    (videos / "duet").mkdir(parents=True)
    for index, video in enumerate(SOLO["accordion"]):
        write_film(videos / f"{video}.mp4", length_s=1.0 + 0.5 * (index % 3), pitch_hz=300.0 + 50 * index, onset=0)
    write_film(videos / "-tuba_00001.mp4", length_s=2.2, onset=0)
    write_film(videos / "duet" / "duet_000001.mp4", length_s=0.6, onset=0)
    lists, listed, features = write_lists(tmp_path), tmp_path / "list.csv", tmp_path / "features"
    arguments = ["--json", *lists, "--media", str(videos)]
    assert main(NAME, read, "json", ["list", *arguments, "--out", str(listed)]) == 0
    assert "music: 17 clips published, 16 found, 1 without a file (0 rows twice, 0 refused)" in capsys.readouterr().out
    task = Task(length_s=1.0, cut=True)
    assert not extract(listed, features, [Levels(rate_hz=10.0), LogMel()], task=task, num_workers=0, progress=False).bad
    store_path = tmp_path / "store"
    assert main(NAME, read, "json", ["pack", *arguments, "--features", str(features), "--out", str(store_path)]) == 0
    store = open_store(store_path)
    splits, labels = defaultdict(set), {}
    for split in store.ledger["splits"]:
        facts = store.facts(split)
        for clip_id, group, label in zip(facts.ids, facts.groups, facts.labels, strict=True):
            assert clip_id.startswith(f"{group}_00000")
            splits[group].add(split)
            labels[group] = label
    assert len(splits) == 16
    assert all(len(of_video) == 1 for of_video in splits.values())
    assert set(store.ledger["splits"]) == {"train", "val", "test"}
    assert labels["-tuba_00001"] == "flute violin + tuba"
    assert sum(store.ledger["splits"].values()) == sum(1 + (index % 3) // 2 for index in range(14)) + 2 + 1
    covered = store.ledger["coverage"]
    assert (covered["published"], covered["present"]) == (17, 16)


def test_lists_that_cannot_be_are_refused(tmp_path, capsys):
    lists = write_lists(tmp_path, {"tuba": ["../up", "fine_000001", 7, "fine_000001"]})
    official = read([tmp_path / "solo.json"])
    assert list(official.entries) == ["fine_000001"]
    assert (len(official.refused), official.repeated) == (2, 1)
    arguments = ["list", "--json", *lists, "--media", str(tmp_path), "--out", str(tmp_path / "list.csv")]
    assert main(NAME, read, "json", arguments) == 1
    errors = capsys.readouterr().err
    assert "solo.json: tuba: expected a video id of letters, digits, _ and -, got '../up'" in errors
    for content in ("[1]", '{"videos": ["a"]}', "{"):
        (tmp_path / "solo.json").write_text(content)
        with pytest.raises(FeatureError, match=r"solo\.json: expected"):
            read([tmp_path / "solo.json"])
