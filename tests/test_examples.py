"""Queries to be heard and seen: which are chosen, films with another clip's sound, strips, poster, and their sizes."""

import io

import numpy as np
import pytest
from conftest import REPOSITORY
from films import BASE, write_film
from PIL import Image
from test_report import EVIL, Page, page_of, write_run

from scav_jax import dubbing, examples, galleries, poster
from scav_jax.alignment_strip import RIGHT, WRONG, alignment_strip
from scav_jax.features import media
from scav_jax.melody import Melody, strokes
from scav_jax.results import load_run
from scav_jax.shown_clips import ShownClips

IDS = ("a", "b", "c")
MELODIES = {
    "a": Melody(["C4", "D4", "E4"], [0.5, 1.0, 1.5], [0.5, 1.0, 1.5]),
    "b": Melody(["C4", "E4", "D4"], [0.5, 1.0, 1.5], [0.5, 1.0, 1.5]),
    "c": Melody(["G4", "D4", "E4"], [0.2, 0.4, 0.6], [0.2, 0.4, 0.6]),
}


@pytest.fixture
def folder(tmp_path):
    """Media of three clips, brighter and higher from one to the next."""
    (tmp_path / "media").mkdir()
    for number, clip in enumerate(IDS):
        write_film(tmp_path / "media" / f"{clip}.mp4", base=BASE + 30 * number, pitch_hz=500.0 * (number + 1))
    return tmp_path / "media"


def answered(path, folder, method, found, **kind):
    """A run that retrieved found[i] first for query IDS[i]."""
    mode = (
        {"mode": "aggregate", "distance": "cosine"}
        if method == "cav"
        else {"mode": "sequence", "distance": "euclidean"}
    )
    queries = [
        {"id": clip, "subset": "order", "direction": "v2a", **mode, "rank": 1 if first == clip else 2}
        | {"retrieved": [first, *sorted({*IDS} - {first})], "alignments": [np.eye(8, dtype=int).tolist()]}
        for clip, first in zip(IDS, found, strict=True)
    ]
    return write_run(path, method=method, retrieved={"media": str(folder), "queries": queries}, **kind)


@pytest.fixture
def runs(tmp_path, folder):
    cav = answered(tmp_path / "cav", folder, "cav", "bcb", trained_with="cosine", recall=20.0)
    return [cav, answered(tmp_path / "scav", folder, "scav", "abb", recall=40.0)]


def test_queries_are_spread_evenly_over_the_list():
    places = galleries.evenly_spread(192, 10)
    assert (places[0], places[-1], len(places)) == (0, 191, 10)
    assert set(np.diff(places)) == {21, 22}
    assert galleries.evenly_spread(3, 10).tolist() == [0, 1, 2]


def test_examples_are_those_asked_whatever_was_found(runs):
    loaded = [load_run(run) for run in runs]
    chosen = examples.choose(loaded, ShownClips(loaded))
    assert list(chosen.ids) == list(IDS)
    assert [answers.label for answers in chosen.answers] == ["CAV", "SCAV Euclidean"]
    shown = examples.section(chosen, ShownClips(loaded), MELODIES)
    assert [(score["right"], score["recall"]) for score in shown["scores"]] == [(0, 10.0), (2, 40.0)]
    own, cav, scav = shown["cards"][0]["columns"]
    assert (cav["heard"], cav["right"], cav["wrong"]) == ("b", False, 2)
    assert (own["heard"], scav["heard"], scav["right"], scav["wrong"]) == ("a", "a", True, 0)
    assert own["film"] == scav["film"] != cav["film"]
    assert own["strip"] == scav["strip"] != cav["strip"]


def test_the_page_holds_each_film_and_says_who_was_right(runs, tmp_path):
    page = page_of(runs, tmp_path, melodies=MELODIES, poster_out=tmp_path / "poster.png")
    text = " ".join(page.text.split())
    assert page.elements.count("video") == 9
    assert sum(load.startswith("data:video/mp4;base64,") for load in page.loads) == 9
    assert "CAV (aggregate, seed 0): 0 of 3, 10.0 %" in text
    assert "SCAV Euclidean (sequence, seed 0): 2 of 3, 40.0 %" in text
    assert "heard: C4 E4 D4 2 of 3 are not the notes struck; sound of b" in text
    assert "not the notes struck, in another rhythm; sound of c" in text
    with Image.open(tmp_path / "poster.png") as picture:
        assert picture.format == "PNG"
    assert all(load.startswith(("data:", "#")) for load in page.loads)


def test_films_need_no_melodies(runs, tmp_path):
    page = page_of(runs, tmp_path)
    assert page.elements.count("video") == 9
    assert "not the notes struck" not in page.text


@pytest.mark.parametrize("lacking", ["media", "queries"])
def test_without_media_or_queries_the_section_is_absent(runs, folder, tmp_path, lacking):
    if lacking == "media":
        for path in folder.iterdir():
            path.unlink()
    else:
        for run in runs:
            (run / "eval" / "retrieved.json").unlink()
    page = page_of(runs, tmp_path, melodies=MELODIES, poster_out=tmp_path / "poster.png")
    assert "video" not in page.elements
    assert "heard and seen" not in page.text
    assert not (tmp_path / "poster.png").exists()


def test_a_broken_film_is_left_out(runs, folder, tmp_path):
    (folder / "b.mp4").write_bytes(b"no film")
    page = page_of(runs, tmp_path)
    assert page.elements.count("video") == 3  # a with a twice, c with c; b is neither seen nor heard
    assert "no film" in page.text


def test_ids_stay_text(tmp_path, folder):
    write_film(folder / "a.mp4")
    run = answered(tmp_path / "run", folder, "scav", [EVIL, "b", "c"])
    assert page_of([run], tmp_path, melodies=MELODIES | {EVIL: MELODIES["b"]}).handlers == []


def read(film, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(film)
    return media.probe(path), media.read_frames(path, 10.0), media.read_sound(path, 16_000)


def pitch(sound):
    return np.abs(np.fft.rfft(sound)).argmax() * 16_000 / len(sound)


def test_a_film_has_one_clips_picture_and_the_others_sound(folder, tmp_path):
    told, frames, sound = read(dubbing.dubbed(folder / "a.mp4", folder / "b.mp4"), tmp_path)
    assert (told.duration_s, told.has_video, told.has_sound) == (2.0, True, True)
    np.testing.assert_allclose(frames, media.read_frames(folder / "a.mp4", 10.0), atol=12)  # levels are 30 apart
    assert pitch(sound) == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize(("seen_s", "heard_s", "lasts_s"), [(2.0, 3.0, 2.0), (2.0, 1.0, 2.0), (12.0, 2.0, 10.0)])
def test_a_film_lasts_as_long_as_the_picture(tmp_path, seen_s, heard_s, lasts_s):
    write_film(tmp_path / "seen.mp4", length_s=seen_s)
    write_film(tmp_path / "heard.mp4", length_s=heard_s, onset=0.0)
    told, _, sound = read(dubbing.dubbed(tmp_path / "seen.mp4", tmp_path / "heard.mp4"), tmp_path)
    assert told.duration_s == lasts_s
    assert np.abs(sound[: round(0.9 * min(heard_s, lasts_s) * 16_000)]).max() > 0.2
    assert np.abs(sound[round(1.1 * heard_s * 16_000) :]).max(initial=0) < 0.01


def test_the_liveliest_clips_stay_below_20_megabytes_together(tmp_path, rng):
    frames = rng.integers(0, 256, (200, 192, 320, 3), dtype=np.uint8)
    noise = rng.uniform(-1, 1, 160_000).astype(np.float32)
    path = tmp_path / "noise.mp4"
    media.write_clip(path, frames, noise, frame_rate_hz=20, sound_rate_hz=16_000)
    film, strip = dubbing.dubbed(path, path), alignment_strip(path, path, examples.UNIFORM)
    columns = 3 * examples.MAX_EXAMPLES
    assert columns * (len(film) + len(strip) + len(dubbing.still(path))) * 4 / 3 < 20e6
    assert read(film, tmp_path)[1].shape == (100, 154, 256, 3)


def test_wrong_notes_are_boxed_in_the_strip(folder):
    pairs = strokes(MELODIES["a"], MELODIES["b"])
    drawn = alignment_strip(folder / "a.mp4", folder / "b.mp4", np.eye(8), strokes=pairs, width=400, image_format="PNG")
    pixels = np.asarray(Image.open(io.BytesIO(drawn)))
    wrong, right = (np.unique(np.nonzero((pixels == ink).all(axis=-1))[1]) for ink in (WRONG, RIGHT))
    assert abs(right.mean() - 100) < 15  # 0.5 s of 2 s on 400 columns
    assert {200, 300} & set(wrong)
    assert not {100} & set(wrong)


def test_threads_follow_the_alignment(folder):
    """Twelve frames, all of whose weight is on the first of the steps: threads lean to the left."""
    first = np.zeros((12, 12))
    first[:, 0] = 1
    upright, leaning = (
        np.asarray(Image.open(io.BytesIO(alignment_strip(folder / "a.mp4", folder / "b.mp4", matrix, width=400))))
        for matrix in (np.eye(12), first)
    )
    row = 72 + 50  # below the movement, near the threads' lower end
    assert (upright[row, 300:].max(), leaning[row, 300:].max()) > (150, 0)
    assert leaning[row, 300:].max() < 60


def test_a_poster_without_examples_is_none():
    assert poster.picture(None, ShownClips([]), {}) is None


def test_the_committed_report_is_small_and_loads_nothing():
    path = REPOSITORY / "docs" / "report" / "report.html"
    page = Page(path.read_text())
    assert path.stat().st_size < 6e6
    assert page.elements.count("video") == 3 * examples.MAX_EXAMPLES
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.elements)
