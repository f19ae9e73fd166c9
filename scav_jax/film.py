"""One clip as a picture: a film strip and its movement over a mel spectrogram, on one common time axis.

The eye can then check what the models are asked to learn: a movement stands above the sound that it makes.
"""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

Picture = UInt8[np.ndarray, "height width 3"]
Level = Float[np.ndarray, "height width"]

FRAME_RATE_HZ = 15.0  # below the rate of most videos: a frame shown twice would look like stillness
FRAME_WIDTH = 256  # frames are read no wider: a long film at full size does not fit in memory
STEP_RATE_HZ = 50.0
DECIBELS_A_UNIT = 20.0  # of the logmel extractor
DYNAMIC_RANGE_DB = 60.0
STRIP_SHARE, MOVEMENT_SHARE, SOUND_SHARE = 0.10, 0.09, 0.12  # heights, as shares of the picture's width
AXIS_HEIGHT = 18
GAP = 2
BACKGROUND = (20, 22, 26)  # dark in both themes of the page, as film is
INK = (205, 210, 218)


def columns(times_s: Float[np.ndarray, " n"], duration_s: float, width: int) -> Int[np.ndarray, " n"]:
    """Pixel columns of points in time: 0 s -> 0 and duration_s -> width, what lies outside clipped to the picture.

    The strip, the spectrogram and the ticks all place themselves by this one rule.
    """
    return np.clip(np.rint(times_s * width / duration_s), 0, width).astype(int)


def frame_changes(frames: UInt8[np.ndarray, "n H W 3"]) -> Float[np.ndarray, "n W"]:
    """How much each column of each frame differs from the frame before, in grey levels; 0 for the first frame."""
    grey = frames.mean(axis=-1)
    return np.abs(np.diff(grey, axis=0, prepend=grey[:1])).mean(axis=1)


def film_strip(
    frames: UInt8[np.ndarray, "n H W 3"],
    times_s: Float[np.ndarray, " n"],
    *,
    duration_s: float,
    width: int,
    height: int,
) -> Picture:
    """(n, H, W, 3) frames at `times_s` -> a strip of as many whole panels as fit at about the frames' own proportions.

    Panel k of K stands over [k, k + 1) * duration_s / K and shows the frame of that stretch that differs most from the
    one before it; the notch at the panel's lower edge is that frame's time.
    """
    from PIL import Image

    panels = max(1, round(width / (height * frames.shape[2] / frames.shape[1])))
    edges_s = np.linspace(0.0, duration_s, panels + 1)
    edges, notches = columns(edges_s, duration_s, width), columns(times_s, duration_s, width - 1)
    changes = frame_changes(frames).mean(axis=1)
    strip = np.broadcast_to(np.array(BACKGROUND, np.uint8), (height, width, 3)).copy()
    for panel, (start, end) in enumerate(pairwise(edges)):
        inside = np.flatnonzero((times_s >= edges_s[panel]) & (times_s < edges_s[panel + 1]))
        if not len(inside):
            inside = np.array([np.argmin(np.abs(times_s - edges_s[panel]))])
        shown = inside[np.argmax(changes[inside])]
        end = max(start + 1, end - GAP)
        frame = Image.fromarray(frames[shown]).resize((int(end - start), height), Image.Resampling.BICUBIC)
        strip[:, start:end] = np.asarray(frame)
        strip[-height // 10 :, max(0, notches[shown] - 1) : notches[shown] + 1] = 255
    return strip


def movement(
    frames: UInt8[np.ndarray, "n H W 3"], rate_hz: float, *, duration_s: float, width: int, height: int
) -> Level:
    """Frames at `rate_hz` -> where in the frame something moves, in 0..1: left edge of the frame at the bottom.

    Frame i stands over [i, i + 1) / rate_hz. A still clip is 0 everywhere.
    """
    changes = frame_changes(frames)
    changes = np.maximum(changes - np.median(changes), 0.0)  # the median is the camera's noise
    return _stretched(changes / max(changes.max(), 1.0), rate_hz, duration_s, width, height)


def spectrogram(sound: Float[np.ndarray, " S"], *, duration_s: float, width: int, height: int) -> Level:
    """Mono 16 kHz sound -> the logmel extractor's bands in 0..1, the lowest at the bottom.

    0 is the median, most often the room's noise, or DYNAMIC_RANGE_DB below the loudest point; silence is 0 everywhere.
    """
    from scav_jax.features.extractors import LogMel

    bands = LogMel(rate_hz=STEP_RATE_HZ)(sound)
    loudest = bands.max()
    floor = max(np.median(bands), loudest - DYNAMIC_RANGE_DB / DECIBELS_A_UNIT)
    level = np.clip((bands - floor) / max(loudest - floor, 1e-3), 0, 1)
    return _stretched(level.astype(float), STEP_RATE_HZ, duration_s, width, height)


def _stretched(
    rows: Float[np.ndarray, "n bins"], rate_hz: float, duration_s: float, width: int, height: int
) -> Float[np.ndarray, "height width"]:
    """Rows in time -> columns of a picture, bin 0 at the bottom; row i fills the columns of [i, i + 1) / rate_hz."""
    middles_s = (np.arange(width) + 0.5) * duration_s / width
    shown = np.minimum((middles_s * rate_hz).astype(int), len(rows) - 1)
    bins = np.arange(height)[::-1] * rows.shape[1] // height
    return rows[shown][:, bins].T


def clip_picture(path: Path, *, width: int = 720, image_format: str = "PNG") -> bytes:
    """A media file -> an encoded picture (`image_format`: "PNG" or "JPEG"): film strip, mel spectrogram, seconds.

    Raises scav_jax.features.media.MediaError where the file cannot be decoded. Source: our choice.
    """
    return encode_picture(_draw_clip(path, width), image_format)


def clip_sheet(paths: Sequence[Path], *, width: int = 960) -> bytes:
    """Several clips, one below the other, each under its file's name, as one PNG."""
    from PIL import Image, ImageDraw

    pictures = [_draw_clip(path, width) for path in paths]
    caption = 22
    sheet = Image.new("RGB", (width, sum(picture.height + caption for picture in pictures)), BACKGROUND)
    draw, top = ImageDraw.Draw(sheet), 0
    for path, picture in zip(paths, pictures, strict=True):
        draw.text((4, top + 4), path.stem, INK, font=font(13))
        sheet.paste(picture, (0, top + caption))
        top += caption + picture.height
    return encode_picture(sheet, "PNG")


def _draw_clip(path: Path, width: int) -> Any:
    from PIL import Image, ImageDraw

    from scav_jax.features import media
    from scav_jax.features.extractors import LogMel

    duration_s = media.probe(path).duration_s
    frames = media.read_frames(path, FRAME_RATE_HZ, max_width=FRAME_WIDTH)
    sound = media.read_sound(path, LogMel.sample_rate_hz)
    times_s = (np.arange(len(frames)) + 0.5) / FRAME_RATE_HZ
    heights = [round(share * width) for share in (STRIP_SHARE, MOVEMENT_SHARE, SOUND_SHARE)]
    place: dict[str, Any] = {"duration_s": duration_s, "width": width}
    strip = film_strip(frames, times_s, **place, height=heights[0])
    levels = {
        "movement, left to right": movement(frames, FRAME_RATE_HZ, **place, height=heights[1]),
        "mel, 50 Hz to 8 kHz": spectrogram(sound, **place, height=heights[2]),
    }

    picture = Image.new("RGB", (width, sum(heights) + 2 * GAP + AXIS_HEIGHT), BACKGROUND)
    picture.paste(Image.fromarray(strip), (0, 0))
    draw, letters = ImageDraw.Draw(picture), font(11)
    top = heights[0] + GAP
    for label, level in levels.items():
        picture.paste(Image.fromarray(coloured(level)), (0, top))
        draw.text((4, top + 1), label, INK, font=letters)
        top += level.shape[0] + GAP
    axis_top = top - GAP
    for tick_s, column in tick_places(duration_s, width):
        draw.line([(column, axis_top), (column, axis_top + 4)], INK)
        draw.text((column + 3, axis_top + 2), f"{tick_s:g} s", INK, font=letters)
    return picture


def coloured(level: Level) -> Picture:
    """0..1 -> black, red, pale yellow."""
    import matplotlib

    return (matplotlib.colormaps["magma"](level)[..., :3] * 255).astype(np.uint8)


def tick_places(duration_s: float, width: int) -> list[tuple[float, int]]:
    """Round times at least 55 pixels apart and their columns; none whose label the right edge would cut."""
    spacing_s = 55 * duration_s / width
    step_s = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30) if step >= spacing_s), 60.0)
    times_s = np.arange(0.0, duration_s - spacing_s / 2, step_s)
    return list(zip(times_s.tolist(), columns(times_s, duration_s, width).tolist(), strict=True))


def font(size: int) -> Any:
    """Pillow's own font, `size` pixels high: the same picture on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def encode_picture(picture: Any, image_format: str) -> bytes:
    """The bytes of a file: JPEG of quality 75, any other of Pillow's formats optimised."""
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **({"quality": 75} if image_format == "JPEG" else {"optimize": True}))
    return buffer.getvalue()
