"""Facts of clips and what the report makes of them."""

import json

import numpy as np

from scav_jax.features import health


def frames_of(rng, count=8):
    return rng.integers(0, 255, (count, 25, 40, 3), np.uint8)


def test_facts_of_picture_and_sound(rng):
    frames = np.zeros((5, 16, 18, 3), np.uint8)
    frames[2:] = 51  # one change of a fifth in four
    facts = health.measure(frames, 4.0)
    assert facts["picture_s"] == 1.25
    assert facts["motion"] == 0.05
    times_s = np.arange(32_000) / 16_000
    facts = health.measure(np.sin(2 * np.pi * 440 * times_s).astype(np.float32), 16_000)
    assert facts["sound_s"] == 2.0
    assert abs(facts["loudness_db"] + 3.01) < 0.01  # a full sine


def test_fingerprints_tell_clips_apart_and_know_them_again(rng):
    frames = 2 * (frames_of(rng) // 2)  # halved without rounding
    sound = rng.normal(0, 0.1, 16_000).astype(np.float32)
    sound *= np.repeat(rng.uniform(0.1, 1, 100), 160).astype(np.float32)
    first, again = (health.measure(frames, 4.0)["picture"] for _ in range(2))
    brighter = health.measure((frames // 2 + 100).astype(np.uint8), 4.0)["picture"]
    other = health.measure(frames_of(rng), 4.0)["picture"]
    assert first == again == brighter != other
    assert health.measure(sound, 16_000)["sound"] == health.measure(0.5 * sound, 16_000)["sound"]
    assert health.measure(sound, 16_000)["sound"] != health.measure(sound[::-1].copy(), 16_000)["sound"]


def test_short_media_have_facts_too(rng):
    assert health.measure(frames_of(rng, 1)[:, :4, :5], 4.0)["motion"] == 0.0
    assert len(health.measure(np.ones(3, np.float32), 16_000)["sound"]) == 16


def test_the_report_counts(tmp_path):
    good = {"picture_s": 10.0, "sound_s": 10.0, "motion": 0.1, "loudness_db": -20.0}
    clips = {
        "a": {**good, "picture": "1", "sound": "1"},
        "b": {**good, "picture": "2", "sound": "2", "loudness_db": -80.0},
        "c": {**good, "picture": "3", "sound": "3", "motion": 0.0},
        "d": {**good, "picture": "4", "sound": "4", "sound_s": 7.0},
        "e": {**good, "picture": "1", "sound": "1"},
        "f": {**good, "picture": "2", "sound": "2"},
        "gone": {**good, "picture": "1", "sound": "1"},  # in no split
    }
    lines = [health.line(clip_id, facts) for clip_id, facts in clips.items()]
    (tmp_path / "health-0-of-2.jsonl").write_text("\n".join([health.line("a", {"motion": 9}), *lines[:3]]) + "\n")
    (tmp_path / "health-1-of-2.jsonl").write_text("\n".join(lines[3:]) + '\n{"id": "torn", "mot')
    facts = health.read(tmp_path)
    assert facts == clips
    splits = {"train": ["a", "b", "c", "d", "x"], "test": ["e"], "val": ["f"]}
    report = health.report(facts, splits, length_s=10.0)
    counts = {name: entry["ids"] for name, entry in report.items() if isinstance(entry, dict)}
    assert counts == {
        "silent": ["b"],
        "still": ["c"],
        "short": ["d"],
        "duplicate": ["e", "f"],
        "leak": ["a", "b", "e", "f"],
    }
    assert (report["clips"], report["unknown"]) == (7, 1)
    assert health.describe(report).startswith("health of 6 of 7 clips: 1 silent, 1 still, 1 short, 2 duplicate, 4 leak")
    json.dumps(report)
