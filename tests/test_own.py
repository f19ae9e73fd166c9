"""`python -m data.own`: both layouts become the same store, a dry run writes nothing, errors are lines."""

import json

import numpy as np
import pytest

from data.own.__main__ import main
from scav_jax.features.store import open_store

CLIPS = 8


@pytest.fixture
def layouts(tmp_path, rng):
    """The same clips as .npz files and as two folders of .npy."""
    for name in ("npz", "visual", "audio"):
        (tmp_path / name).mkdir()
    rows = ["id,split,label,group,subset"]
    for clip in range(CLIPS):
        visual, audio = rng.normal(size=(3 + clip, 5)), rng.normal(size=(7, 4))
        np.savez(tmp_path / "npz" / f"v{clip}.npz", visual=visual, audio=audio)
        np.save(tmp_path / "visual" / f"v{clip}.npy", visual)
        np.save(tmp_path / "audio" / f"v{clip}.npy", audio)
        rows.append(
            f"v{clip},{('train', 'val', 'test', 'train')[clip % 4]},l,g{clip},{'order' if clip % 4 == 2 else ''}"
        )
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    return tmp_path


def arguments(folder, *more, npz=True):
    layout = ["--features", "npz"] if npz else ["--visual", "visual", "--audio", "audio"]
    files = [item if item.startswith("--") else str(folder / item) for item in layout]
    return [*files, "--out", str(folder / "store"), "--clips", str(folder / "clips.csv"), *more]


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_both_layouts_give_the_same_store(layouts, capsys):
    assert main([*arguments(layouts), "--name", "mine", "--media", "films"]) == 0
    assert main([*arguments(layouts, npz=False), "--out", str(layouts / "second"), "--visual-rate-hz", "4"]) == 0
    first, second = open_store(layouts / "store"), open_store(layouts / "second")
    assert (first.ledger["dataset"], first.ledger["media"], first.ledger["split_rule"]) == ("mine", "films", "given")
    assert first.ledger["modalities"] == second.ledger["modalities"]
    assert first.ledger["modalities"]["visual"]["rate_hz"] == 4.0
    assert first.ledger["modalities"]["audio"]["rate_hz"] == 6.2
    for split in ("train", "val", "test"):
        for one, other in zip(first.split(split), second.split(split), strict=True):
            assert one["id"] == other["id"]
            np.testing.assert_array_equal(one["visual"], other["visual"])
            np.testing.assert_array_equal(one["audio"], other["audio"])
    assert "wrote" in capsys.readouterr().out


def test_dry_run_counts_and_writes_nothing(layouts, capsys):
    before = listing(layouts)
    assert main(arguments(layouts, "--dry-run")) == 0
    assert listing(layouts) == before
    out = capsys.readouterr().out
    # lengths 3..10 of width 5 and 7 of width 4, two bytes a number: 2 * (52 * 5 + 56 * 4) = 968 bytes
    for line in (
        "data set own, splits given",
        "train: 4 clips",
        "test: 2 clips, order: 2",
        "visual: width 5, 4 Hz, lengths 3 (min) 7 (median) 10 (max)",
        "audio: width 4, 6.2 Hz, lengths 7 (min) 7 (median) 7 (max)",
        "about 0.000968 MB",
    ):
        assert line in out.splitlines()


def test_without_a_table_the_hash_splits(layouts, capsys):
    plain = arguments(layouts)[:4]
    assert main(plain) == 0
    assert "sha256 of the group" in capsys.readouterr().out
    store = open_store(layouts / "store")
    assert sum(store.ledger["splits"].values()) == CLIPS
    assert store.ledger["split_rule"].startswith("by sha256 of the group")


def test_empty_splits_are_warned_of_in_order(layouts, capsys):
    (layouts / "clips.csv").write_text("id,split\n" + "".join(f"v{clip},val\n" for clip in range(CLIPS)))
    assert main(arguments(layouts, "--dry-run")) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert [line.split()[2] for line in warnings] == ["train", "test"]


def test_extraction_record_gives_rates(layouts):
    entry = {"width": 5, "rate_hz": 8.0, "extractor": {"name": "pixels", "version": "1"}}
    record = {"modalities": {"visual": entry, "audio": {**entry, "width": 4}}, "decoder": {"pyav": "18"}}
    (layouts / "npz" / "extraction.json").write_text(json.dumps(record))
    assert main(arguments(layouts, "--audio-rate-hz", "9")) == 1
    assert main(arguments(layouts)) == 0
    assert open_store(layouts / "store").ledger["modalities"]["audio"]["rate_hz"] == 8.0


def test_every_error_is_a_line_and_nothing_is_written(layouts, capsys):
    (layouts / "visual" / "v0.npy").unlink()
    np.save(layouts / "audio" / "v1.npy", np.full((7, 4), np.nan))
    (layouts / "audio" / "v2.npy").write_bytes(b"\x93NUMPY truncated")
    (layouts / "audio" / "v3.npy").unlink()
    before = listing(layouts)
    assert main(arguments(layouts, npz=False)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 4
    assert lines[0] == f"error: {layouts}/audio/v1.npy: audio: expected finite numbers, got 28 NaN or Inf of 28"
    assert lines[1].startswith(f"error: {layouts}/audio/v2.npy: expected NumPy arrays, cannot be read: ")
    assert lines[2:] == ["error: v0: in audio only", "error: v3: in visual only"]
    assert listing(layouts) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--out", "store"],
        ["--features", "a", "--visual", "b", "--audio", "c", "--out", "store"],
        ["--visual", "b", "--out", "store"],
        ["--features", "a"],
    ],
)
def test_usage_errors_exit_2(options):
    with pytest.raises(SystemExit) as usage:
        main(options)
    assert usage.value.code == 2


def test_missing_inputs_and_existing_store(layouts, capsys):
    assert main(["--features", str(layouts / "none"), "--out", str(layouts / "store")]) == 1
    assert "error: features: expected a folder of .npz files" in capsys.readouterr().err
    assert main([*arguments(layouts)[:-1], str(layouts / "none.csv")]) == 1
    assert "none.csv" in capsys.readouterr().err
    (layouts / "store").mkdir()
    assert main(arguments(layouts)) == 1
    assert "is there already" in capsys.readouterr().err
