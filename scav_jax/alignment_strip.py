"""The picture of one clip over the sound of another on one axis of seconds: what a film of both is to be checked by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from scav_jax.film import (
    AXIS_HEIGHT,
    BACKGROUND,
    FRAME_RATE_HZ,
    FRAME_WIDTH,
    GAP,
    INK,
    coloured,
    columns,
    encode_picture,
    font,
    movement,
    spectrogram,
    tick_places,
)
from scav_jax.melody import Stroke

MAX_S = 10.0
NOTES, MOVES, THREADS, SOUND = 54, 72, 60, 88  # heights of rows
RIGHT, WRONG = (76, 199, 154), (240, 130, 106)  # as on the dark page
FAINT = 0.1  # of a frame's brightest thread: what is not drawn


def alignment_strip(
    seen: Path,
    heard: Path,
    alignment: Float[np.ndarray, "n m"] | None = None,
    *,
    strokes: Sequence[Stroke] = (),
    width: int = 720,
    image_format: str = "JPEG",
) -> bytes:
    """The movement of `seen` over the sound of `heard`, threads between frames and the moments that they go with.

    Both on the film's seconds, MAX_S at most. strokes: notes of the film above, of the sound below, marked right or
    wrong. No alignment: no threads. MediaError where a file cannot be decoded.
    """
    from PIL import Image, ImageDraw

    from scav_jax.features import media

    seen_s = media.probe(seen).duration_s
    duration_s = min(seen_s, MAX_S)
    place: dict[str, Any] = {"duration_s": duration_s, "width": width}
    frames = media.read_frames(seen, FRAME_RATE_HZ, max_width=FRAME_WIDTH, span=media.Span(length_s=MAX_S))
    notes = NOTES if strokes else 0
    top = notes + MOVES + GAP
    picture = Image.new("RGB", (width, top + THREADS + GAP + SOUND + notes + 2 * AXIS_HEIGHT), BACKGROUND)
    picture.paste(Image.fromarray(coloured(movement(frames, FRAME_RATE_HZ, **place, height=MOVES))), (0, notes))
    if alignment is not None:
        seen_width, heard_width = (s * width / duration_s for s in (seen_s, media.probe(heard).duration_s))
        picture.paste(_threads(alignment, seen_width, heard_width, width), (0, top))
    top += THREADS + GAP
    picture.paste(Image.fromarray(coloured(sound_level(heard, **place, height=SOUND))), (0, top))
    draw: Any = ImageDraw.Draw(picture)
    write_notes(draw, [(stroke.seen, stroke.seen_s, None) for stroke in strokes], top=0, **place)
    top += SOUND
    write_notes(draw, [(stroke.heard, stroke.heard_s, stroke.right) for stroke in strokes], top=top, **place)
    for tick_s, column in tick_places(duration_s, width):
        draw.text((column + 3, top + notes + 4), f"{tick_s:g} s", INK, font=font(22))
    return encode_picture(picture, image_format)


def sound_level(heard: Path, *, duration_s: float, width: int, height: int) -> Float[np.ndarray, "height width"]:
    """The spectrogram of the first `duration_s` of a file, silence where it is over sooner."""
    from scav_jax.features import media
    from scav_jax.features.extractors import LogMel

    sound = np.zeros(round(duration_s * LogMel.sample_rate_hz), np.float32)
    found = media.read_sound(heard, LogMel.sample_rate_hz, span=media.Span(length_s=duration_s))[: len(sound)]
    sound[: len(found)] = found
    return spectrogram(sound, duration_s=duration_s, width=width, height=height)


def write_notes(
    draw: Any,
    notes: Sequence[tuple[str, float, bool | None]],
    *,
    top: int,
    duration_s: float,
    width: int,
    size: int = 23,
) -> None:
    """(name, seconds, right) of each note at its time; a wrong one stands in a box, so that colour is not all.

    On two lines by turns: neighbours may be nearer than a name is wide.
    """
    for number, (name, time_s, right) in enumerate(notes):
        line = top + 1 + number % 2 * (size + 3)
        column = float(columns(np.array([time_s]), duration_s, width)[0])
        ink = INK if right is None else RIGHT if right else BACKGROUND
        if right is False:
            half = draw.textlength(name, font=font(size)) / 2 + 1
            draw.rectangle([column - half, line, column + half, line + size], fill=WRONG)
        draw.text((column, line), name, ink, font=font(size), anchor="ma")


def _threads(alignment: Float[np.ndarray, "n m"], seen_width: float, heard_width: float, width: int) -> Any:
    """A thread from each frame, at the top, to each step, at the bottom, as bright as its share of the frame."""
    from PIL import Image, ImageDraw

    shares = alignment / np.maximum(alignment.sum(axis=1, keepdims=True), 1e-12)
    frames, steps = np.nonzero(shares > FAINT * shares.max(axis=1, keepdims=True))
    threads = Image.new("RGB", (width, THREADS), BACKGROUND)
    draw: Any = ImageDraw.Draw(threads)
    for thread in np.argsort(shares[frames, steps]):
        frame, step = frames[thread], steps[thread]
        ends = (frame + 0.5) * seen_width / len(shares), (step + 0.5) * heard_width / shares.shape[1]
        level = np.sqrt(shares[frame, step])  # or the many thin ones of an average would not be seen
        ink = tuple(round(low + level * (high - low)) for low, high in zip(BACKGROUND, INK, strict=True))
        draw.line([(ends[0], 0), (ends[1], THREADS)], ink, 2)
    return threads
