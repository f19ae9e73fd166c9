"""The rendered world: what each subset keeps and changes, one clock for picture and sound, same seed, same bytes."""

import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data.marimba import picture, prepare, score, sound
from scav_jax.features import media

CLIPS = score.clips(0, 0.1)
HARD = score.clips(0, 0.1, score.DIFFICULTIES["hard"])
BOTH = pytest.mark.parametrize("clips", [CLIPS, HARD], ids=["demo", "hard"])


def groups(subset, clips=CLIPS):
    found = defaultdict(list)
    for clip in clips:
        if clip.split == "test" and clip.subset == subset:
            found[clip.group].append(clip)
    return list(found.values())


def find(subset, split="test"):
    return next(clip for clip in CLIPS if (clip.split, clip.subset) == (split, subset))


def test_ids_are_unique_and_no_melody_is_in_two_splits():
    assert len({clip.id for clip in CLIPS}) == len(CLIPS)
    by_split = {
        split: {clip.picture_onsets_s for clip in CLIPS if clip.split == split and clip.subset != "static"}
        for split in score.COUNTS
    }
    assert not by_split["train"] & by_split["test"]
    assert not by_split["train"] & by_split["val"]
    assert not by_split["val"] & by_split["test"]


def test_a_clip_depends_on_the_seed_and_not_on_the_scale():
    smaller = {clip.id: clip for clip in score.clips(0, 0.05)}
    larger = {clip.id: clip for clip in CLIPS}
    assert smaller.items() <= larger.items()
    assert find("order") != next(clip for clip in score.clips(1, 0.05) if clip.id == find("order").id)


def test_full_counts():
    """The table of data/marimba: every split and subset at its full size."""
    counted = defaultdict(int)
    for clip in score.clips(0):
        counted[clip.split, clip.subset] += 1
    assert counted == {
        (split, subset): number * size
        for split, subsets in score.COUNTS.items()
        for subset, (number, size) in subsets.items()
    }


@BOTH
@pytest.mark.parametrize("subset", ["order", "lag", "drift", "unseen"])
def test_groups_share_notes_and_rhythm_and_differ_in_order(subset, clips):
    for members in groups(subset, clips):
        assert len(members) >= 6
        assert len({tuple(sorted(clip.bars)) for clip in members}) == 1
        assert len({clip.picture_onsets_s for clip in members}) == 1
        assert len({clip.bars for clip in members}) == len(members)


def test_timing_groups_share_order_and_differ_in_rhythm():
    for members in groups("timing"):
        assert len(members) >= 6
        assert len({clip.bars for clip in members}) == 1
        assert len({clip.picture_onsets_s for clip in members}) == len(members)


@pytest.mark.parametrize("subset", ["semantic", "static"])
def test_every_semantic_and_static_clip_has_its_own_notes(subset):
    clips = [clip for members in groups(subset) for clip in members]
    assert len({frozenset(clip.bars) for clip in clips}) == len(clips)


def test_static_clips_never_change():
    for (clip,) in groups("static"):
        played = [set(clip.bars[start : start + 3]) for start in range(len(clip.bars) - 2)]
        assert all(notes == set(clip.bars) for notes in played)
        assert np.diff(clip.picture_onsets_s).max() < 0.1
        assert clip.picture_onsets_s[0] == 0
        assert clip.picture_onsets_s[-1] > score.DEMO.clip_s - 0.1


def test_lag_shifts_the_sound():
    shifts = []
    for clip in (clip for members in groups("lag") for clip in members):
        shift = np.subtract(clip.sound_onsets_s, clip.picture_onsets_s)
        assert np.ptp(shift) < 1e-9
        assert abs(shift[0]) <= score.MAX_LAG_S
        shifts.append(shift[0])
    assert np.ptp(shifts) > score.MAX_LAG_S


def test_drift_plays_the_sound_at_another_speed():
    speeds = []
    for clip in (clip for members in groups("drift") for clip in members):
        speed = np.diff(clip.picture_onsets_s) / np.diff(clip.sound_onsets_s)
        assert np.ptp(speed) < 1e-6
        assert score.SPEEDS[0] <= speed[0] <= score.SPEEDS[1]
        speeds.append(speed[0])
    assert np.ptp(speeds) > 0.2


def test_the_other_subsets_are_synchronous():
    for subset in ("order", "timing", "semantic", "unseen", "static"):
        for clip in (clip for members in groups(subset) for clip in members):
            assert clip.picture_onsets_s == clip.sound_onsets_s


@BOTH
def test_no_stroke_leaves_the_clip(clips):
    for clip in clips:
        for onsets in (clip.picture_onsets_s, clip.sound_onsets_s):
            assert all(np.diff(onsets) > 0)
            assert onsets[0] >= 0
            assert onsets[-1] < clip.difficulty.clip_s
            assert len(onsets) == len(clip.bars)


def test_the_hard_world_is_longer_denser_and_has_more_false_strokes():
    demo, hard = (score.DIFFICULTIES[name] for name in ("demo", "hard"))
    melodies = [[clip for clip in clips if clip.subset == "order"] for clips in (CLIPS, HARD)]
    gaps = [np.mean([np.diff(clip.picture_onsets_s).mean() for clip in clips]) for clips in melodies]
    assert gaps[1] < 0.9 * gaps[0]
    assert hard.clip_s > demo.clip_s
    assert hard.max_ghosts / hard.clip_s > demo.max_ghosts / demo.clip_s
    clip = melodies[1][0]
    assert len(picture.frames(clip, np.random.default_rng(0))) == hard.clip_s * picture.FRAME_RATE_HZ
    assert len(sound.wave(clip, np.random.default_rng(0))) == hard.clip_s * sound.RATE_HZ


def test_unseen_palettes_and_timbres_are_not_in_training():
    assert [clip.unseen for clip in CLIPS] == [clip.subset == "unseen" for clip in CLIPS]
    assert disjoint(picture.SEEN_HUES, picture.UNSEEN_HUES)
    assert disjoint(sound.SEEN_SECOND_PARTIALS, sound.UNSEEN_SECOND_PARTIALS)


def disjoint(seen, unseen):
    return all(high < other_low or other_high < low for low, high in seen for other_low, other_high in unseen)


def test_pictures_and_timbres_follow_their_own_random_numbers():
    """The nuisances of picture and sound must not tell of each other: `_render_one` gives each a stream."""
    clip = find("order")
    seen = {}

    def recorded(name, function):
        return lambda clip, rng: (
            seen.setdefault(name, rng.bit_generator.state["state"]["state"]) and function(clip, rng)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "frames", recorded("picture", picture.frames))
        patch.setattr(sound, "wave", recorded("sound", sound.wave))
        patch.setattr(media, "write_clip", lambda *_, **__: None)
        prepare._render_one(Path("nowhere"), 0, (3, clip))
    assert len(set(seen.values())) == 2


def test_the_same_seed_renders_the_same_bytes(tmp_path):
    def rendered(seed):
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        (folder / "media" / "test").mkdir(parents=True)
        prepare._render_one(folder, seed, (0, find("order")))
        (path,) = folder.rglob("*.mp4")
        return path.read_bytes()

    first = rendered(0)
    assert rendered(0) == first
    assert rendered(1) != first


def test_a_clip_is_one_h264_and_one_aac_stream_of_four_seconds(marimba):
    import av

    paths = sorted((marimba / "world" / "media").rglob("*.mp4"))
    assert len(paths) == len(score.clips(0, 0.05))
    for path in paths[:: len(paths) // 8]:
        with av.open(str(path)) as container:
            assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
            for stream in container.streams:
                assert float(stream.duration * stream.time_base) == pytest.approx(
                    score.DEMO.clip_s, abs=0.065
                )  # AAC packet


@pytest.fixture(scope="module")
def strokes(marimba):
    return json.loads((marimba / "world" / "strokes.json").read_text())


@pytest.mark.parametrize("subset", ["order", "lag", "drift", "unseen"])
def test_the_picture_shows_every_stroke_when_it_is_struck(marimba, strokes, subset):
    """Of all bars and times, the struck bar grows brighter at its stroke: read back from the .mp4."""
    paths = sorted((marimba / "world" / "media" / "test").glob(f"test-{subset}-*.mp4"))[:6]
    hits = []
    for path in paths:
        luma = media.read_frames(path, float(picture.FRAME_RATE_HZ)).mean(axis=-1)
        pitch = picture.WIDTH / (len(score.NOTES) + 1)
        columns = [slice(round((bar + 0.75) * pitch), round((bar + 1.25) * pitch)) for bar in range(len(score.NOTES))]
        bars = np.stack([luma[:, 20:44, column].mean(axis=(1, 2)) for column in columns], axis=1)
        growth = np.diff(bars, axis=0, prepend=bars[:1])
        played = strokes[path.stem]
        for bar, onset_s in zip(played["bars"], played["picture_s"], strict=True):
            frame = int(np.ceil(onset_s * picture.FRAME_RATE_HZ))
            hits.append(growth[frame].argmax() == bar)
    assert np.mean(hits) > 0.8


@pytest.mark.parametrize("subset", ["order", "lag", "drift", "unseen"])
def test_the_sound_has_every_stroke_when_it_is_struck(marimba, strokes, subset):
    """Energy at the note's frequency after the stroke against just before it: read back from the .mp4."""
    paths = sorted((marimba / "world" / "media" / "test").glob(f"test-{subset}-*.mp4"))[:6]
    span = round(0.06 * sound.RATE_HZ)
    times_s = np.arange(span) / sound.RATE_HZ
    tones = np.exp(-2j * np.pi * np.array(sound.NOTE_HZ)[:, None] * times_s) * np.hanning(span)
    hits = []
    for path in paths:
        wave = np.pad(media.read_sound(path, sound.RATE_HZ), span)
        played = strokes[path.stem]
        for bar, onset_s in zip(played["bars"], played["sound_s"], strict=True):
            start = span + round(onset_s * sound.RATE_HZ)
            after, before = (np.abs(tones @ wave[at : at + span]) for at in (start, start - span))
            hits.append((after - before).argmax() == bar)
    assert np.mean(hits) > 0.8


@pytest.mark.heavy
def test_prepare_redoes_only_what_is_missing(tmp_path, capfd):
    prepare.prepare(tmp_path, seed=0, scale=0.001)
    world = tmp_path / "world"
    removed = find("order")
    film, features = world / "media" / "test" / f"{removed.id}.mp4", world / "features" / f"{removed.id}.npz"
    kept = {
        path: path.stat().st_mtime_ns for folder in ("media", "features") for path in world.rglob(f"{folder}/**/*.*")
    }
    film_bytes, store_facts = film.read_bytes(), json.loads((tmp_path / "store" / "ledger.json").read_text())
    film.unlink()
    features.unlink()
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    prepare.prepare(tmp_path, seed=0, scale=0.001)
    assert film.read_bytes() == film_bytes
    assert json.loads((tmp_path / "store" / "ledger.json").read_text()) == store_facts
    redone = {path for path, changed in kept.items() if path.stat().st_mtime_ns != changed}
    written_anew = {world / "features" / name for name in ("skipped.csv", "health.jsonl", ".lock")}
    assert redone == {film, features, *written_anew}
    capfd.readouterr()
    prepare.prepare(tmp_path, seed=0, scale=0.001)
    assert capfd.readouterr().out == ""


def test_prepare_refuses_a_folder_of_another_world(tmp_path, marimba):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "world.json").write_bytes((marimba / "world" / "world.json").read_bytes())
    with pytest.raises(ValueError, match=r"holds the world of .*0\.05.*, not of .*0\.06"):
        prepare.prepare(tmp_path, seed=0, scale=0.06)
    with pytest.raises(ValueError, match="another --out"):
        prepare.prepare(tmp_path, scale=0.05, seed=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "world", "world.json"]


def test_a_world_larger_than_its_sets_of_notes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="scale: test static has 92 sets of notes, 96 were asked for"):
        prepare.prepare(tmp_path / "marimba", scale=1.5)
    assert not (tmp_path / "marimba").exists()


def test_of_several_at_once_one_prepares(tmp_path, monkeypatch):
    inside, most = [], []

    def slowly(_clips, out, *_):
        inside.append(out)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()

    monkeypatch.setattr(prepare, "_prepare", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare.prepare, [tmp_path] * 4))
    assert most == [1, 1, 1, 1]
