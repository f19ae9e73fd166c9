"""Two clips laid over each other as a picture: the film of one downwards, the sound of the other across, and where each
frame of the one goes with which moment of the other, as a sequential distance sees it."""

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
    encode_picture,
    film_strip,
    font,
    movement,
    spectrogram,
    tick_places,
)

FILM_SHARE, MOVEMENT_SHARE, SOUND_SHARE, MATRIX_SHARE = 0.16, 0.07, 0.14, 0.6  # of the picture's width


def alignment_picture(
    seen: Path, heard: Path, alignment: Float[np.ndarray, "n m"], *, width: int = 420, image_format: str = "JPEG"
) -> bytes:
    """The film of `seen` at the left, top to bottom, the sound of `heard` above, left to right, (n, m) weights between.

    Times run on the clips' own axes; weights are scaled to their largest. MediaError where a file cannot be decoded.
    """
    from PIL import Image, ImageDraw

    from scav_jax.features import media
    from scav_jax.features.extractors import LogMel

    film, moves, sound_height, side = (
        round(share * width) for share in (FILM_SHARE, MOVEMENT_SHARE, SOUND_SHARE, MATRIX_SHARE)
    )
    left = AXIS_HEIGHT + 10 + film + GAP + moves + GAP
    top, across = sound_height + GAP, width - left
    frames = media.read_frames(seen, FRAME_RATE_HZ, max_width=FRAME_WIDTH)
    seen_s = media.probe(seen).duration_s
    sound, heard_s = media.read_sound(heard, LogMel.sample_rate_hz), media.probe(heard).duration_s
    times_s = (np.arange(len(frames)) + 0.5) / FRAME_RATE_HZ

    # Drawn across and turned, so that time runs down; its frames are turned the other way first, and stand upright.
    upright = np.rot90(frames, 1, axes=(1, 2))
    strip = film_strip(upright, times_s, duration_s=seen_s, width=side, height=film)
    moved = movement(frames, FRAME_RATE_HZ, duration_s=seen_s, width=side, height=moves)
    weights = np.clip(alignment / max(float(alignment.max()), 1e-12), 0, 1)
    rows = np.minimum(np.arange(side) * len(weights) // side, len(weights) - 1)
    cells = np.minimum(np.arange(across) * weights.shape[1] // across, weights.shape[1] - 1)
    heard_level = spectrogram(sound, duration_s=heard_s, width=across, height=sound_height)

    picture = Image.new("RGB", (width, top + side + AXIS_HEIGHT), BACKGROUND)
    for part, place in (
        (coloured(heard_level), (left, 0)),
        (np.rot90(strip, -1), (left - 2 * GAP - moves - film, top)),
        (np.rot90(coloured(moved), -1), (left - GAP - moves, top)),
        (coloured(weights[rows][:, cells]), (left, top)),
    ):
        picture.paste(Image.fromarray(np.ascontiguousarray(part)), place)
    draw: Any = ImageDraw.Draw(picture)
    for time_s, column in tick_places(heard_s, across):
        draw.line([(left + column, top + side), (left + column, top + side + 4)], INK)
        draw.text((left + column + 3, top + side + 2), f"{time_s:g} s", INK, font=font(11))
    for time_s, row in tick_places(seen_s, side):
        draw.text((2, top + row), f"{time_s:g} s", INK, font=font(11))
    return encode_picture(picture, image_format)
