"""The sound: struck bars as decaying partials, recorded with noise."""

import numpy as np

from data.marimba.score import Clip, ghosts

RATE_HZ = 16_000
NOTE_HZ = (261.63, 293.66, 329.63, 392.00, 440.00, 523.25, 587.33, 659.26)  # of score.NOTES
SEEN_SECOND_PARTIALS = ((1.9, 2.1), (3.8, 4.1))
UNSEEN_SECOND_PARTIALS = ((2.7, 3.2), (4.8, 5.3))


def wave(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """(samples,) float32 within -1..1; `rng` draws timbre, loudness, tuning and noise."""
    seconds = rng.uniform(*_choice(rng, UNSEEN_SECOND_PARTIALS if clip.unseen else SEEN_SECOND_PARTIALS))
    partials = np.array([1.0, seconds, rng.uniform(8.5, 9.8)])
    levels = np.array([1.0, rng.uniform(0.1, 0.6), rng.uniform(0.0, 0.2)])
    decays_s = rng.uniform(0.12, 0.35) / np.array([1.0, 1.8, 4.0])
    tuning = 2 ** (rng.uniform(-25, 25) / 1200)
    sound = np.zeros(round(clip.difficulty.clip_s * RATE_HZ), np.float32)
    stroke_s = np.arange(round(5 * decays_s[0] * RATE_HZ)) / RATE_HZ
    tones = [_tone(note_hz * tuning, partials, levels, decays_s, stroke_s) for note_hz in NOTE_HZ]
    strokes = [
        (bar, onset_s, rng.uniform(0.7, 1.0)) for bar, onset_s in zip(clip.bars, clip.sound_onsets_s, strict=True)
    ]
    for bar, onset_s, level in strokes + ghosts(rng, clip.difficulty):
        start = round(onset_s * RATE_HZ)
        part = sound[start : start + len(stroke_s)]
        part += level * tones[bar][: len(part)]
    loudness = rng.uniform(0.08, 0.3)
    return np.clip(loudness * sound + loudness * _background(rng, len(sound)), -1, 1).astype(np.float32)


def _choice(rng: np.random.Generator, ranges: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    return ranges[rng.integers(len(ranges))]


def _tone(note_hz, partials, levels, decays_s, times_s) -> np.ndarray:
    attack = np.minimum(times_s / 0.003, 1.0)
    waves = np.sin(2 * np.pi * note_hz * partials[:, None] * times_s) * np.exp(-times_s / decays_s[:, None])
    return (attack * (levels @ waves)).astype(np.float32)


def _background(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """A hum, the rumble of a room and the hiss of a recorder, relative to one stroke's level."""
    white = rng.standard_normal(num_samples, dtype=np.float32)
    rumble = np.convolve(white, np.full(64, 1 / 8, np.float32), mode="same")
    hum = np.sin(2 * np.pi * rng.choice([50.0, 60.0]) * np.arange(num_samples) / RATE_HZ)
    return rng.uniform(0, 0.25) * white + rng.uniform(0, 0.25) * rumble + rng.uniform(0, 0.1) * hum
