"""A folder of sound, odd and broken films through the command, killed and started again."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY
from films import BASE, LENGTH_S, Levels, expected_levels, write_broken, write_film, write_odd

from scav_jax.features.extract import Task, extract
from scav_jax.features.extractors import LogMel
from scav_jax.features.store import open_store


def command(media, out, *extra):
    flags = ["--visual-rate-hz=4", "--audio-rate-hz=6", "--workers=2", *extra]
    return [sys.executable, "-m", "scav_jax.features.extract", "--media", str(media), "--out", str(out), *flags]


def make_media(folder, count):
    """`count` films, twelve of them broken and eight odd, in two folders."""
    (folder / "more").mkdir(parents=True)
    reasons, odd = write_broken(folder), write_odd(folder / "more")
    for number in range(count - len(reasons) - len(odd)):
        write_film(folder / f"film{number:03d}.mp4", pitch_hz=200.0 + 40 * number, base=BASE + number % 40)
    return reasons


def test_odd_films_are_seen_at_the_right_times(tmp_path):
    films = write_odd(tmp_path)
    extractors = [Levels(rate_hz=4.0), LogMel(rate_hz=10.0, bands=16)]
    report = extract(tmp_path, tmp_path / "out", extractors, num_workers=0, progress=False)
    assert not report.bad
    for name, told in films.items():
        with np.load(tmp_path / "out" / f"{name}.npz") as features:
            upper, lower = features["visual"].T
            np.testing.assert_allclose(upper, expected_levels(told, 4.0), atol=3)
            assert lower.max() < 20
            loud = np.flatnonzero(features["audio"].max(axis=1) > 0.8)
        length_s = told.get("length_s", LENGTH_S)
        assert len(loud) in (round(length_s * 5), round(length_s * 5) + 1)  # the tone's half, and the step before it
        assert loud[0] in (round(length_s * 5) - 1, round(length_s * 5))


def test_files_are_cut_and_shared_by_hosts(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    write_film(media / "long.mp4", length_s=3.5)
    write_film(media / "short.mp4", length_s=0.7)
    (media / "torn.mp4").write_text("no film")
    extractors = [Levels(rate_hz=4.0)]
    for host in range(2):
        task = Task(length_s=1.0, cut=True, host=host, hosts=2)
        extract(media, tmp_path / "out", extractors, task=task, num_workers=0, progress=False)
    whole = {"length_s": 3.5}
    names = sorted(path.stem for path in (tmp_path / "out").glob("*.npz"))
    assert names == ["long_000000", "long_000001", "long_000002", "short_000000"]
    for start in range(3):
        upper = np.load(tmp_path / "out" / f"long_00000{start}.npz")["visual"][:, 0]
        np.testing.assert_allclose(upper, expected_levels(whole, 4.0)[4 * start : 4 * start + 4], atol=3)
    assert len(np.load(tmp_path / "out" / "short_000000.npz")["visual"]) == 3
    assert "torn," in "".join(path.read_text() for path in (tmp_path / "out").glob("skipped-*-of-2.csv"))
    with pytest.raises(ValueError, match="was extracted with other clips"):
        extract(media, tmp_path / "out", extractors, num_workers=0, progress=False)
    for length_s in (None, 0.5):
        with pytest.raises(ValueError, match="cut: expected a clip length of whole seconds"):
            Task(length_s=length_s, cut=True)
    with pytest.raises(ValueError, match="clip length: expected seconds above 0, got -1"):
        Task(length_s=-1.0)


@pytest.mark.parametrize(("count", "kills"), [(28, 2), pytest.param(200, 10, marks=pytest.mark.heavy)])
def test_broken_films_are_named_and_kills_change_nothing(count, kills, tmp_path, rng):
    media = tmp_path / "media"
    reasons = make_media(media, count)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    done = subprocess.run(command(media, calm), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1  # as the help says: more bad ones than --max-bad
    assert f"{count - 12} extracted, 0 there before, 12 bad" in done.stdout
    with (calm / "skipped.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == set(reasons)
    for row in rows:
        assert re.search(reasons[row["id"]], row["reason"])
        assert re.search(f"{row['id']}.mp4: {re.escape(row['reason'])}", done.stderr)

    finished = {}
    for target in sorted(rng.integers(0, count - 12, kills)):
        process = subprocess.Popen(
            command(media, killed),
            cwd=REPOSITORY,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(list(killed.glob("*.npz"))) < target and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for path in killed.glob("*.npz"):
            finished.setdefault(path, path.stat().st_mtime_ns)
    resumed = subprocess.run(
        command(media, killed, "--max-bad=12"), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # no finished clip is redone
    for name in ("extraction.json", "skipped.csv", *(path.name for path in calm.glob("*.npz"))):
        assert (killed / name).read_bytes() == (calm / name).read_bytes(), name
    assert len(list(killed.glob("*.npz"))) == count - 12
    stores = [pack(features, tmp_path / f"store-{features.name}") for features in (calm, killed)]
    assert stores[0] == stores[1]


def pack(features, path):
    """A store's ledger and clips; array_record writes a random number into its files, so bytes say nothing."""
    packing = [sys.executable, "-m", "data.own", "--features", str(features), "--out", str(path)]
    subprocess.run(packing, cwd=REPOSITORY, check=True, capture_output=True)
    store = open_store(path)
    clips = [
        {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in clip.items()}
        for split in store.ledger["splits"]
        for clip in map(store.split(split).__getitem__, range(store.ledger["splits"][split]))
    ]
    return store.ledger, clips
