"""Small films for the tests of extraction: sound ones, odd ones, broken ones. Each tells what is to be seen when.

The upper half of frame i is grey of level BASE + 8 i (i modulo 20), the lower half black. A tone begins in the middle.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np

from scav_jax.features import media
from scav_jax.features.media import WHOLE

BASE, STEP, LEVELS, RATE_HZ, LENGTH_S = 40, 8, 20, 10, 2.0
HEIGHT, WIDTH = 32, 48


@dataclass(frozen=True)
class Levels:
    """An extractor that sees the brightness of the upper and of the lower half, in the film's levels."""

    rate_hz: float = 4.0
    name: ClassVar[str] = "levels"
    version: ClassVar[str] = "1"
    modality: ClassVar[str] = "visual"
    width: ClassVar[int] = 2

    def read(self, path, span=WHOLE):
        return media.read_frames(path, self.rate_hz, span=span)

    def __call__(self, frames):
        upper, lower = np.split(frames.astype(np.float32), 2, axis=1)
        return np.stack([upper.mean(axis=(1, 2, 3)), lower.mean(axis=(1, 2, 3))], axis=1)


def write_film(
    path,
    *,
    times_s=None,
    length_s=LENGTH_S,
    start_s=0.0,
    turns=0,
    sound_rate_hz=16_000,
    layout="mono",
    picture=True,
    sound=True,
    pitch_hz=440.0,
    base=BASE,
    onset=0.5,
    options=None,
):
    """A film; `times_s`: when its frames are shown; `turns`: quarter turns, counter-clockwise, that the stored picture
    needs; `onset`: of the tone, as a share of the length."""
    times_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ if times_s is None else times_s
    with av.open(path, "w", options=options or {}) as container:
        streams = []
        if picture:
            video = container.add_stream("libx264", rate=RATE_HZ, options={"preset": "ultrafast", "crf": "10"})
            video.width, video.height = (WIDTH, HEIGHT) if turns % 2 == 0 else (HEIGHT, WIDTH)
            video.pix_fmt = "yuv420p"
            if turns:
                video.set_display_rotation(90 * turns)
            streams.append(video)
        if sound:
            audio = container.add_stream("aac", rate=sound_rate_hz, layout=layout)
            streams.append(audio)
        if picture:
            for position, time_s in enumerate(times_s):
                pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
                pixels[: HEIGHT // 2] = base + STEP * (position % LEVELS)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(pixels, -turns)), format="rgb24")
                frame.pts, frame.time_base = round((start_s + time_s) * RATE_HZ), Fraction(1, RATE_HZ)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if sound:
            at_s = np.arange(round(length_s * sound_rate_hz)) / sound_rate_hz
            wave = np.where(at_s < onset * length_s, 0, 0.4 * np.sin(2 * np.pi * pitch_hz * at_s)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.tile(wave, (audio.channels, 1)), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = sound_rate_hz, round(start_s * sound_rate_hz)
            frame.time_base = Fraction(1, sound_rate_hz)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def write_odd(folder: Path) -> dict[str, dict]:
    """Eight films that are odd and good: what write_film was told of each, by id."""
    uneven_s = np.array([0.0, 0.1, 0.2, 0.3, 0.8, 0.9, 1.0, 1.4, 1.5, 1.6, 1.7, 1.9])
    films = {
        "surround": {"sound_rate_hz": 8000, "layout": "5.1"},
        "uneven": {"times_s": uneven_s},
        "rotated": {"turns": 1},
        "late": {"start_s": 5.0},
        "-dash": {},
        'it\'s "two" words': {},
        "фильм 映画": {},
        "brief": {"length_s": 1.2},
    }
    for name, told in films.items():
        write_film(folder / f"{name}.mp4", **told)
    return films


def expected_levels(told: dict, rate_hz: float) -> np.ndarray:
    """The upper half's level at (i + 0.5) / rate_hz."""
    length_s = told.get("length_s", LENGTH_S)
    shown_s = told.get("times_s", np.arange(round(length_s * RATE_HZ)) / RATE_HZ)
    times_s = (np.arange(round(length_s * rate_hz)) + 0.5) / rate_hz
    return BASE + STEP * ((np.searchsorted(shown_s, times_s + 1e-6) - 1) % LEVELS)


def write_broken(folder: Path) -> dict[str, str]:
    """Twelve films that cannot be used, and what the reason says of each, by id."""
    write_film(folder / "whole.mp4", options={"movflags": "faststart"})
    whole = (folder / "whole.mp4").read_bytes()
    write_film(folder / "whole.mp4")
    index_last = (folder / "whole.mp4").read_bytes()
    (folder / "whole.mp4").unlink()
    for number in (1, 2):
        (folder / f"zero{number}.mp4").write_bytes(b"")
        (folder / f"text{number}.mp4").write_text("this is no film\n" * number)
        write_film(folder / f"mute{number}.mp4", sound=False)
        write_film(folder / f"blind{number}.mp4", picture=False)
        write_film(folder / f"single{number}.mp4", times_s=[0.0])
    begin = whole.index(b"mdat")
    (folder / "cut1.mp4").write_bytes(whole[: begin + (len(whole) - begin) // 2])
    (folder / "cut2.mp4").write_bytes(index_last[: len(index_last) // 2])
    reasons = {
        "zero": "zero bytes",
        "text": "cannot be decoded",
        "mute": "no sound stream",
        "blind": "no video stream",
        "single": "one frame only",
        "cut": "truncated|cannot be decoded",
    }
    return {f"{kind}{number}": reason for kind, reason in reasons.items() for number in (1, 2)}
