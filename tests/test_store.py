"""Stores keep what they were given, in order, and refuse every kind of bad feature or damaged file."""

import json

import numpy as np
import pytest

from scav_jax.features.checks import find_problem
from scav_jax.features.clips import Clip, ids_sha256, read_clips, split_by_group, write_clips
from scav_jax.features.store import FeatureError, build, open_store

RATES_HZ = {"visual": 4.0, "audio": 6.2}


def write_features(folder, count, rng, *, lengths=(3, 4, 5)):
    """count .npz files v0.. with visual (length, 6) and audio (2 * length, 4), plus the matching clips.csv beside."""
    folder.mkdir()
    splits = ("train", "train", "val", "test")
    clips = []
    for position in range(count):
        length = lengths[position % len(lengths)]
        arrays = {"visual": rng.normal(size=(length, 6)), "audio": rng.normal(size=(2 * length, 4)).astype(np.float32)}
        np.savez(folder / f"v{position:02d}.npz", **arrays)
        clips.append(Clip(f"v{position:02d}", splits[position % 4], f"é{position}", f"g{position // 2}", "order"))
    write_clips(folder.parent / "clips.csv", reversed(clips))
    return folder, folder.parent / "clips.csv", clips


@pytest.fixture
def made(tmp_path, rng):
    features, clips_csv, clips = write_features(tmp_path / "features", 12, rng)
    build(features, tmp_path / "store", clips_csv, name="toy", rates_hz=RATES_HZ, media=tmp_path)
    return tmp_path / "store", features, clips


def test_round_trip_in_order(made):
    path, features, clips = made
    store = open_store(path)
    assert store.ledger["splits"] == {"train": 6, "val": 3, "test": 3}
    assert store.ledger["dataset"] == "toy"
    assert store.ledger["media"] == str(path.parent)
    visual = store.ledger["modalities"]["visual"]
    assert (visual["width"], visual["rate_hz"], visual["min_length"], visual["max_length"]) == (6, 4.0, 3, 5)
    for split in ("train", "val", "test"):
        expected = [clip for clip in clips if clip.split == split]
        stored, facts = store.split(split), store.facts(split)
        assert len(stored) == len(expected)
        assert [example["index"] for example in stored] == list(range(len(expected)))
        for position, clip in enumerate(expected):
            example = stored[position]
            assert (example["id"], example["label"], example["group"]) == (clip.id, clip.label, clip.group)
            assert (facts.ids[position], facts.labels[position]) == (clip.id, clip.label)
            assert (facts.groups[position], facts.subsets[position]) == (clip.group, "order")
            with np.load(features / f"{clip.id}.npz") as arrays:
                for modality in ("visual", "audio"):
                    assert example[modality].dtype == np.float32
                    np.testing.assert_array_equal(example[modality], arrays[modality].astype(np.float16))
        assert store.ledger["ids_sha256"][split] == ids_sha256([clip.id for clip in expected])


def test_unknown_split_and_index(made):
    store = open_store(made[0])
    with pytest.raises(ValueError, match="expected one of train, val, test"):
        store.split("valid")
    with pytest.raises(IndexError, match="expected an index below 3, got 3"):
        store.split("val")[3]


def test_existing_store_is_kept(made):
    path, features, _ = made
    before = (path / "ledger.json").read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        build(features, path, rates_hz=RATES_HZ)
    assert (path / "ledger.json").read_bytes() == before


def test_every_bad_file_is_listed_and_nothing_written(tmp_path, rng):
    folder, clips_csv, _ = write_features(tmp_path / "features", 20, rng)
    good = {"visual": rng.normal(size=(3, 6)), "audio": rng.normal(size=(6, 4))}

    def replace(name, **arrays):
        np.savez(folder / f"{name}.npz", **(good | arrays))

    replace("v00", visual=np.full((3, 6), np.nan))
    replace("v01", audio=np.where(np.arange(24).reshape(6, 4) == 5, np.inf, 0.5))
    replace("v02", visual=np.zeros((0, 6)))
    replace("v03", visual=rng.normal(size=6))
    replace("v04", audio=rng.normal(size=(6, 5)))
    replace("v05", visual=np.ones((3, 6), np.int64))
    (folder / "v06.npz").write_bytes(b"PK\x03\x04 truncated")
    np.savez(folder / "v07.npz", visual=good["visual"])
    replace("v08", visual=good["visual"] * 1e6)
    replace("v09", audio=np.array([{"pickled": True}], object))
    replace("v10", text=rng.normal(size=(2, 2)))
    replace("v11", audio=np.full((6, 4), 0.25))
    with pytest.raises(FeatureError) as caught:
        build(folder, tmp_path / "store", clips_csv, rates_hz=RATES_HZ)
    expected = [
        "v00.npz: visual: expected finite numbers, got 18 NaN or Inf of 18",
        "v01.npz: audio: expected finite numbers, got 1 NaN or Inf of 24",
        "v02.npz: visual: expected at least one vector, got shape (0, 6)",
        "v03.npz: visual: expected shape (length, width), got (6,)",
        "v04.npz: audio: expected width 4, got 5",
        "v05.npz: visual: expected floating-point numbers, got int64",
        "v06.npz: expected NumPy arrays, cannot be read: File is not a zip file",
        "v07.npz: expected audio and visual, audio is missing",
        "v08.npz: visual: expected magnitudes up to 65504 (float16), got ",
        "v09.npz: expected NumPy arrays, cannot be read: Object arrays cannot be loaded when allow_pickle=False",
        "v10.npz: expected audio and visual, got 'text' as well",
        "v11.npz: audio: expected numbers that vary, got 0.25 throughout",
    ]
    assert len(caught.value.problems) == len(expected)
    for problem, start in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(f"{folder}/{start}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.csv", "features"]


def test_a_failed_write_leaves_nothing(tmp_path, rng, monkeypatch):
    folder, clips_csv, _ = write_features(tmp_path / "features", 4, rng)

    def full_disk(path, clips):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scav_jax.features.store.write_clips", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build(folder, tmp_path / "store", clips_csv, rates_hz=RATES_HZ)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.csv", "features"]


def test_float16_limits_are_exact():
    assert find_problem(np.array([[65504.0, 0.0]])) is None
    assert "float16" in find_problem(np.array([[65520.0, 0.0]]))
    assert find_problem(np.array([[1.0]])) is None


def test_table_and_features_must_match(tmp_path, rng):
    folder, clips_csv, clips = write_features(tmp_path / "features", 4, rng)
    write_clips(clips_csv, [*clips[1:], Clip("ghost", "train")])
    with pytest.raises(FeatureError) as caught:
        build(folder, tmp_path / "store", clips_csv, rates_hz=RATES_HZ)
    assert caught.value.problems == (
        f"{clips_csv}: 'ghost' has no features",
        f"{folder}/v00.npz: has no row in {clips_csv}",
    )


def test_extraction_record_must_match(tmp_path, rng):
    folder, _, _ = write_features(tmp_path / "features", 2, rng)
    with pytest.raises(ValueError, match="audio rate_hz: expected the features' positive rate, got None"):
        build(folder, tmp_path / "store")
    for rate_hz in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match=f"audio rate_hz: expected the features' positive rate, got {rate_hz}"):
            build(folder, tmp_path / "store", rates_hz=RATES_HZ | {"audio": rate_hz})
    extractor = {"name": "pixels", "version": "1", "rows": 8}
    record = {
        "modalities": {
            "visual": {"width": 6, "rate_hz": 8.0, "extractor": extractor},
            "audio": {"width": 5, "rate_hz": 12.0, "extractor": None},
        },
        "decoder": {"pyav": "1"},
    }
    (folder / "extraction.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="audio: expected width and rate_hz of the extraction record, 5 and 12, got 4"):
        build(folder, tmp_path / "store")
    record["modalities"]["audio"]["width"] = 4
    (folder / "extraction.json").write_text(json.dumps(record))
    ledger = build(folder, tmp_path / "store")
    assert ledger["modalities"]["visual"]["rate_hz"] == 8.0
    assert ledger["decoder"] == {"pyav": "1"}
    store = open_store(tmp_path / "store")
    store.check_extractor("visual", extractor)
    with pytest.raises(FeatureError, match="visual extractor rows: expected 4, got 8"):
        store.check_extractor("visual", extractor | {"rows": 4})


@pytest.mark.parametrize("mixed", [False, True])
def test_clips_of_one_modality_are_refused(tmp_path, rng, mixed):
    folder, clips_csv, _ = write_features(tmp_path / "features", 4, rng)
    for position in range(3 if mixed else 4):
        np.savez(folder / f"v{position:02d}.npz", visual=rng.normal(size=(3, 6)))
    with pytest.raises(FeatureError) as caught:
        build(folder, tmp_path / "store", clips_csv, rates_hz=RATES_HZ)
    assert caught.value.problems == (
        f"{folder}: expected arrays of two modalities (visual and audio) in every file, most have visual only",
    )


def test_bad_features_in_most_files_blame_no_other(tmp_path, rng):
    folder, clips_csv, _ = write_features(tmp_path / "features", 4, rng)
    for position in range(3):
        np.savez(folder / f"v{position:02d}.npz", visual=rng.normal(size=(3, 6)), audio=np.zeros((6, 4)))
    with pytest.raises(FeatureError) as caught:
        build(folder, tmp_path / "store", clips_csv, rates_hz=RATES_HZ)
    assert caught.value.problems == tuple(
        f"{folder}/v{position:02d}.npz: audio: expected numbers that vary, got 0 throughout" for position in range(3)
    )


def edit_ledger(path, edit):
    ledger = json.loads((path / "ledger.json").read_text())
    edit(ledger)
    (path / "ledger.json").write_text(json.dumps(ledger))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda ledger: ledger["splits"].update(train=7), "splits of the TFDS files"),
        (lambda ledger: ledger["ids_sha256"].update(val="0"), "ids of clips.csv"),
        (lambda ledger: ledger["modalities"]["audio"].update(width=8), "differ from those of the TFDS files"),
        (lambda ledger: ledger.update(format=2), "expected format 1, got 2"),
    ],
)
def test_ledger_that_disagrees_is_refused(made, edit, message):
    edit_ledger(made[0], edit)
    with pytest.raises(FeatureError, match=message):
        open_store(made[0])


def test_damaged_shards_are_named(made):
    path = made[0]
    (shard,) = path.rglob("clips-val.array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(FeatureError, match=rf"{shard.name}: expected {len(whole)} bytes, got {len(whole) - 1}"):
        open_store(path)
    flipped = bytearray(whole)
    flipped[whole.index(b"v02") + 1] ^= 0xFF
    shard.write_bytes(flipped)
    with pytest.raises(FeatureError, match=rf"{shard.name}: clip v02 cannot be read"):
        open_store(path).split("val")[0]
    shard.unlink()
    with pytest.raises(FeatureError, match="no file"):
        open_store(path)


def test_a_folder_without_ledger_is_no_store(tmp_path):
    with pytest.raises(FeatureError, match=r"expected a store with a ledger\.json"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,split\na,train\n", "expected a header of id,split"),
        ("id,splt\na,train\n", "expected a header"),
        ("id,split\na,train\na,val\n", "line 3: expected unique ids"),
        ("id,split\na,dev\n", "expected a split of train, val, test, got 'dev'"),
        ("id,split,subset\na,train,all\n", "line 2: expected a subset not named 'all'"),
        ("id,split\n../a,train\n", "without slashes"),
        ("id,split\n..,train\n", "not a folder"),
        ("id,split\na\n", "line 2: expected 2 cells"),
        ("id,split\na,train,x\n", "line 2: expected 2 cells"),
        ("id,split\n", "at least one clip"),
        ("", "expected a header"),
        ("id\n\udcff\n", "expected a .csv in UTF-8"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "clips.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FeatureError, match=message):
        read_clips(tmp_path / "clips.csv")


def test_split_rule_keeps_groups_together_and_shares(tmp_path):
    (tmp_path / "clips.csv").write_text("id,group\n" + "".join(f"c{i},g{i // 3}\n" for i in range(6000)))
    clips = read_clips(tmp_path / "clips.csv")
    by_group = {}
    for clip in clips:
        by_group.setdefault(clip.group, set()).add(clip.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    share = np.mean([clip.split == "train" for clip in clips])
    assert 0.77 < share < 0.83


@pytest.mark.parametrize("number", [3, 5, 12])
def test_small_sets_have_no_empty_split(number):
    splits = [clip.split for clip in split_by_group(Clip(f"c{i}", "train") for i in range(number))]
    assert set(splits) == {"train", "val", "test"}
    assert splits.count("train") >= number - 2 - number // 2


def test_ids_sha256_is_of_the_lines():
    # from coreutils: printf 'a\nb' | sha256sum
    assert ids_sha256(["a", "b"]) == "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"
