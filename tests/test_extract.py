"""Extractors see what they should, and an extraction resumes, names bad files and refuses mixed settings."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from scav_jax.features import extract as extraction
from scav_jax.features.checks import FeatureError
from scav_jax.features.extract import extract, read_record
from scav_jax.features.extractors import LogMel, Pixels, describe, extractor_names, make_extractor
from scav_jax.features.media import WHOLE, write_clip

EXTRACTORS = [Pixels(rate_hz=4.0, rows=2, columns=3), LogMel(rate_hz=6.2, bands=8)]


def make_media(folder, count):
    rng = np.random.default_rng(3)  # content does not matter, only that clips differ
    folder.mkdir(exist_ok=True)
    for position in range(count):
        frames = rng.integers(0, 255, (10, 32, 48, 3), dtype=np.uint8)
        sound = rng.normal(0, 0.1, 16_000)
        write_clip(folder / f"c{position}.mp4", frames, sound, frame_rate_hz=10, sound_rate_hz=16_000)
    return folder


@dataclass(frozen=True)
class Crashing(Pixels):
    """Stands for a decoder that takes its whole process down on one file."""

    name: ClassVar[str] = "crashing"

    def read(self, path, span=WHOLE):
        if path.stem == "c1":
            os._exit(11)
        return super().read(path, span)


@dataclass(frozen=True)
class Odd(Pixels):
    """Stands for a decoder that raises an error of its own on one file."""

    def read(self, path, span=WHOLE):
        if path.stem == "c1":
            raise ValueError("invalid sample format\nand more")
        return super().read(path, span)


def test_pixels_show_where_and_when_it_grows_bright():
    frames = np.zeros((5, 16, 24, 3), np.uint8)  # 2 x 3 patches of 8 x 8
    frames[:, :8, :8] = 90  # always there: says nothing
    frames[3, 8:, 16:] = 200  # flashes in the last patch
    features = Pixels(rows=2, columns=3, gain=1.0)(frames)
    expected = np.zeros((5, 12), np.float32)
    expected[3, 5] = expected[3, 11] = 200 / 255
    np.testing.assert_allclose(features, expected, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [6.2, 12.0, 31.0])
def test_logmel_puts_a_tone_at_its_time_and_band(rate_hz):
    times_s = np.arange(4 * 16_000) / 16_000
    tone = np.where((times_s >= 2.0) & (times_s < 3.0), np.sin(2 * np.pi * 1000 * times_s), 0).astype(np.float32)
    features = LogMel(rate_hz=rate_hz)(tone)
    assert features.shape == (round(4 * rate_hz), 64)
    loud_s = (np.flatnonzero(features.max(axis=1) > 1.5) + 0.5) / rate_hz
    assert abs(loud_s[0] - 2.0) <= 1 / rate_hz
    assert abs(loud_s[-1] - 3.0) <= 1 / rate_hz
    # Slaney's mel scale: 3 f / 200 up to 1 kHz, 15 + 27 log(f / 1000) / log(6.4) above; bands are evenly spaced on it
    low, high = 3 * 50 / 200, 15 + 27 * np.log(8) / np.log(6.4)
    band = (15 - low) / (high - low) * 65 - 1
    assert abs(features[int(2.5 * rate_hz)].argmax() - band) <= 1
    np.testing.assert_allclose(features[0], -1.0, atol=1e-6)  # silence


def test_logmel_steps_are_means_of_the_windows_in_them(rng):
    sound = rng.normal(0, 0.1, 16_000).astype(np.float32)
    fine, coarse = LogMel(rate_hz=50.0)(sound), LogMel(rate_hz=5.0)(sound)
    power = np.power(10.0, 2 * fine - 5).reshape(5, 10, -1)
    # the last fine step also holds the window centred at the very end, hence only the first four
    np.testing.assert_allclose(coarse[:4], (np.log10(power.mean(axis=1)) + 5)[:4] / 2, atol=1e-4)


def test_extractors_by_name():
    assert extractor_names("visual") == ("pixels", "clip")
    assert extractor_names("audio") == ("logmel", "beats")
    assert describe(make_extractor("logmel", bands=32)) == {
        "name": "logmel",
        "version": "1",
        "rate_hz": 12.0,
        "bands": 32,
    }
    with pytest.raises(ValueError, match="expected one of pixels, clip, logmel, beats, got 'clap'"):
        make_extractor("clap")
    with pytest.raises(ValueError, match="expected settings among rate_hz, bands, got 'band'"):
        make_extractor("logmel", band=3)
    with pytest.raises(ValueError, match="<= 50"):
        LogMel(rate_hz=60.0)
    for rate_hz in (0.0, -1.0, float("nan"), float("inf")):
        for extractor in (Pixels, LogMel):
            with pytest.raises(ValueError, match=rf"{extractor.name} rate_hz: expected .*, got {rate_hz}"):
                extractor(rate_hz=rate_hz)


def test_extraction_resumes_and_names_bad_files(tmp_path, capsys):
    media, out = make_media(tmp_path / "media", 3), tmp_path / "features"
    (media / "zero.mp4").write_bytes(b"")
    report = extract(media, out, EXTRACTORS, num_workers=0, progress=False)
    assert (report.num_extracted, report.num_resumed) == (3, 0)
    assert report.bad == {"zero": (media / "zero.mp4", "zero bytes")}
    assert f"{media}/zero.mp4: zero bytes" in capsys.readouterr().err
    with (out / "skipped.csv").open() as file:
        assert list(csv.reader(file)) == [["id", "file", "reason"], ["zero", f"{media}/zero.mp4", "zero bytes"]]
    with np.load(out / "c1.npz") as features:
        assert {name: features[name].shape for name in features} == {"visual": (4, 12), "audio": (6, 8)}
        first = features["audio"]

    (out / "c1.npz.partial").write_bytes(b"half")  # what a killed run leaves
    (out / "c1.npz").unlink()
    before = (out / "c0.npz").stat().st_mtime_ns
    report = extract(media, out, EXTRACTORS, num_workers=0, progress=False)
    assert (report.num_extracted, report.num_resumed, len(report.bad)) == (1, 2, 1)
    assert (out / "c0.npz").stat().st_mtime_ns == before
    with np.load(out / "c1.npz") as features:
        np.testing.assert_array_equal(features["audio"], first)
    assert not list(out.glob("*.partial"))


def test_other_settings_are_refused(tmp_path):
    media, out = make_media(tmp_path / "media", 1), tmp_path / "features"
    extract(media, out, EXTRACTORS, num_workers=0, progress=False)
    with pytest.raises(ValueError, match=r"was extracted with other modalities.*choose another folder"):
        extract(media, out, [Pixels(rate_hz=5.0, rows=2, columns=3), EXTRACTORS[1]], num_workers=0, progress=False)
    record = json.loads((out / "extraction.json").read_text())
    assert record["modalities"]["audio"] == {"width": 8, "rate_hz": 6.2, "extractor": describe(EXTRACTORS[1])}
    assert {"pyav", "libavcodec"} <= record["decoder"].keys()
    (out / "extraction.json").unlink()
    with pytest.raises(ValueError, match="unknown settings"):
        extract(media, out, EXTRACTORS, num_workers=0, progress=False)


def test_silent_clip_is_a_bad_file(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (10, 32, 48, 3), dtype=np.uint8)
    write_clip(media / "muted.mp4", frames, np.zeros(16_000), frame_rate_hz=10, sound_rate_hz=16_000)
    report = extract(media, tmp_path / "features", EXTRACTORS, num_workers=0, progress=False)
    assert report.bad["muted"][1] == "audio features: expected numbers that vary, got -1 throughout"


def test_media_folder_must_have_one_file_a_stem(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        extract(tmp_path, tmp_path / "out", EXTRACTORS)
    make_media(tmp_path / "a", 1)
    make_media(tmp_path / "b", 1)
    with pytest.raises(ValueError, match="one clip an id"):
        extract(tmp_path, tmp_path / "out", EXTRACTORS)


def test_a_crashing_decoder_costs_one_clip(tmp_path):
    media, out = make_media(tmp_path / "media", 6), tmp_path / "features"
    report = extract(media, out, [Crashing(rate_hz=4.0)], num_workers=1, progress=False)
    assert report.bad == {"c1": (media / "c1.mp4", "the decoder crashed")}
    assert sorted(path.stem for path in out.glob("*.npz")) == ["c0", "c2", "c3", "c4", "c5"]


def test_an_odd_error_costs_one_clip(tmp_path):
    media, out = make_media(tmp_path / "media", 3), tmp_path / "features"
    report = extract(media, out, [Odd(rate_hz=4.0)], num_workers=0, progress=False)
    assert report.bad == {"c1": (media / "c1.mp4", "ValueError: invalid sample format")}
    assert sorted(path.stem for path in out.glob("*.npz")) == ["c0", "c2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"modalities": ', "expected a JSON object, cannot be read"),
        ("\udcff", "expected a JSON object, cannot be read"),
        ("[]", r"expected decoder, and modalities .*, got \[\]"),
        ('{"modalities": {}}', "expected decoder, and modalities"),
        ('{"modalities": {"audio": {"width": 8}}, "decoder": {}}', ".* with width, rate_hz and extractor each"),
        (
            '{"modalities": {"audio": {"width": 8, "rate_hz": "6", "extractor": {}}}, "decoder": {}}',
            ".* with width, rate_hz",
        ),
    ],
)
def test_a_foreign_record_is_named(tmp_path, text, message):
    (tmp_path / "extraction.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FeatureError, match=rf"{tmp_path}/extraction\.json: {message}"):
        read_record(tmp_path)


def test_command_exit_codes(tmp_path, capsys):
    media = make_media(tmp_path / "media", 1)
    arguments = ["--media", str(media), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert extraction.main(arguments) == 0
    (media / "bad.mp4").write_text("not a film")
    assert extraction.main(arguments) == 1
    assert "error: 1 bad files" in capsys.readouterr().err
    assert extraction.main([*arguments, "--max-bad", "1"]) == 0
    assert extraction.main(["--media", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "error: media: expected a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        extraction.main(["--media", str(media)])
    assert usage.value.code == 2


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--visual=clip"], 1, "--clip-weights: expected a file of weights (or --random-weights to try things out)"),
        (["--audio=beats", "--audio-rate-hz=5"], 1, "--audio-rate-hz: expected 6.25, the rate of BEATs, got 5"),
        (["--visual=clip", "--clip-weights=none.pt"], 1, "none.pt: expected a file of weights, found none"),
        (["--visual=clip", "--clip-model=vit", "--random-weights"], 1, "model: expected one of clip-vit-b32"),
        (["--visual=clip", "--clip-output=map", "--random-weights"], 1, "output: expected one of projection, class"),
        (["--cut"], 1, "cut: expected a clip length of whole seconds to cut to, got None"),
        (["--slice=3/2"], 1, "slice: expected I/N with 0 <= I < N, got 3/2"),
        (["--slice=one"], 2, "--slice: expected I/N, got one"),
        (["--visual=vgg"], 2, "invalid choice: 'vgg'"),
    ],
)
def test_flags_that_cannot_be_are_named(flags, code, message, tmp_path, capsys):
    (tmp_path / "film.mp4").touch()
    arguments = ["--media", str(tmp_path), "--out", str(tmp_path / "out"), "--workers=0", *flags]
    with pytest.raises(SystemExit) as ended:
        sys.exit(extraction.main(arguments))
    assert ended.value.code == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.npz"))


def test_workers_import_no_heavy_package():
    code = (
        "import sys, scav_jax.features.extract; "
        "print({'jax', 'av', 'librosa', 'torch', 'tensorflow', 'tensorflow_datasets', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
