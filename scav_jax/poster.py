"""One query of those that can be heard, as a picture: film, its own sound, and the sounds that CAV and SCAV found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scav_jax.alignment_strip import RIGHT, WRONG, sound_level, write_notes
from scav_jax.examples import Examples
from scav_jax.film import (
    BACKGROUND,
    FRAME_RATE_HZ,
    FRAME_WIDTH,
    INK,
    coloured,
    encode_picture,
    film_strip,
    font,
    movement,
)
from scav_jax.melody import Melody, Stroke, strokes
from scav_jax.shown_clips import ShownClips

WIDTH, MARGIN = 1200, 24
STRIP, MOVES, SOUND, NOTES, LINE = 112, 84, 96, 54, 46  # heights of rows
LETTERS = 21


def picture(examples: Examples | None, clips: ShownClips, melodies: Mapping[str, Melody]) -> bytes | None:
    """The first of the examples on which the runs' answers differ (or the first of all), as a PNG; None without media.

    A sound's notes are marked right or wrong by the film's, where the data set knows them.
    """
    from PIL import Image

    from scav_jax.features import media

    if examples is None:
        return None
    query = next((one for one in examples.ids if len({a.right(one) for a in examples.answers}) > 1), examples.ids[0])
    found: list[tuple[str, str, bool | None]] = [("Its own sound", query, None)]
    found += [(f"{one.label} finds", one.first(query), one.right(query)) for one in examples.answers]
    if any(heard not in clips.files for _, heard, _ in found):
        return None
    film = clips.files[query]
    place: dict[str, Any] = {"duration_s": media.probe(film).duration_s, "width": WIDTH}
    frames = media.read_frames(film, FRAME_RATE_HZ, max_width=FRAME_WIDTH)
    times_s = (np.arange(len(frames)) + 0.5) / FRAME_RATE_HZ
    rows = [
        _line(f"The film, and where it moves. Which of {examples.subset['gallery_size']} sounds is its own?"),
        Image.fromarray(film_strip(frames, times_s, **place, height=STRIP)),
        Image.fromarray(coloured(movement(frames, FRAME_RATE_HZ, **place, height=MOVES))),
    ]
    for number, (label, heard, right) in enumerate(found):
        pairs = strokes(melodies[query], melodies[heard]) if {query, heard} <= melodies.keys() else []
        if number == 0 and pairs:
            rows.append(_notes([(pair.seen, pair.seen_s, None) for pair in pairs], place))
        rows.append(_line(label, _verdict(right, pairs), None if right is None else RIGHT if right else WRONG))
        rows.append(Image.fromarray(coloured(sound_level(clips.files[heard], **place, height=SOUND))))
        if pairs:
            rows.append(_notes([(pair.heard, pair.heard_s, pair.right) for pair in pairs], place))
    rows.append(_line(_scores(examples)))
    return encode_picture(_stacked(rows), "PNG")


def _verdict(right: bool | None, pairs: Sequence[Stroke]) -> str:
    if right is None:
        return ""
    wrong = sum(not pair.right for pair in pairs)
    return ("right" if right else "wrong") + (f": {wrong} of {len(pairs)} notes are others" if wrong else "")


def _scores(examples: Examples) -> str:
    row = examples.subset
    recalls = ", ".join(f"{one.label} {one.row['R@1']:.1f} %" for one in examples.answers)
    return f"Right at rank 1 of all {row['gallery_size']} queries of '{row['subset']}': {recalls}"


def _line(text: str, verdict: str = "", ink: tuple[int, int, int] | None = None) -> Any:
    from PIL import Image, ImageDraw

    row = Image.new("RGB", (WIDTH, LINE), BACKGROUND)
    draw: Any = ImageDraw.Draw(row)
    draw.text((0, LINE - 8), text, INK, font=font(LETTERS), anchor="ls")
    draw.text((draw.textlength(text + "  ", font=font(LETTERS)), LINE - 8), verdict, ink, font(LETTERS), anchor="ls")
    return row


def _notes(notes: Sequence[tuple[str, float, bool | None]], place: Mapping[str, Any]) -> Any:
    from PIL import Image, ImageDraw

    row = Image.new("RGB", (WIDTH, NOTES), BACKGROUND)
    write_notes(ImageDraw.Draw(row), notes, top=2, size=LETTERS, **place)
    return row


def _stacked(rows: Sequence[Any]) -> Any:
    from PIL import Image

    sheet = Image.new("RGB", (WIDTH + 2 * MARGIN, sum(row.height for row in rows) + MARGIN), BACKGROUND)
    top = MARGIN // 3
    for row in rows:
        sheet.paste(row, (MARGIN, top))
        top += row.height
    return sheet
