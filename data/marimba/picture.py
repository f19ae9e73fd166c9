"""The picture: a marimba seen from above, whose bars light up and give way when they are struck."""

import colorsys

import numpy as np

from data.marimba.score import NOTES, Clip, ghosts

FRAME_RATE_HZ = 20
HEIGHT, WIDTH = 64, 96
GLOW_DECAY_S = 0.25
SEEN_HUES = ((0.02, 0.14), (0.30, 0.45), (0.55, 0.68))
UNSEEN_HUES = ((0.18, 0.26), (0.75, 0.92))


def frames(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """(time, HEIGHT, WIDTH, 3) uint8 frames of a clip; `rng` draws palette, lighting, camera and noise."""
    rest, struck = _stills(clip.unseen, rng)
    glow = _glow(clip, ghosts(rng, clip.difficulty))
    video = rest + np.tensordot(glow, struck - rest, axes=1)
    video *= _lighting(rng)
    video += _noise(rng, len(video))
    return np.clip(video, 0, 255).astype(np.uint8)


def _glow(clip: Clip, glints: list[tuple[int, float, float]]) -> np.ndarray:
    """(time, bars) how far each bar is lit and moved: 1 at its stroke, then fading."""
    times = np.arange(round(clip.difficulty.clip_s * FRAME_RATE_HZ)) / FRAME_RATE_HZ
    glow = np.zeros((len(times), len(NOTES)), np.float32)
    strokes = [(bar, onset_s, 1.0) for bar, onset_s in zip(clip.bars, clip.picture_onsets_s, strict=True)]
    for bar, onset_s, level in strokes + glints:
        since_s = times - onset_s
        fading = np.where(since_s >= 0, level * np.exp(-np.maximum(since_s, 0) / GLOW_DECAY_S), 0)
        np.maximum(glow[:, bar], fading, out=glow[:, bar])
    return glow


def _stills(unseen: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The keyboard at rest (H, W, 3), and (bars, H, W, 3) with one bar struck in each."""
    hues = UNSEEN_HUES if unseen else SEEN_HUES
    hue = rng.uniform(*hues[rng.integers(len(hues))])
    wood = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.2, 0.7), rng.uniform(0.35, 0.6)), np.float32)
    light = 255 * np.array(colorsys.hsv_to_rgb((hue + rng.uniform(-0.08, 0.08)) % 1, 0.25, 1.0), np.float32)
    floor = 255 * np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.4), rng.uniform(0.08, 0.3)), np.float32)
    shift_x, shift_y = rng.uniform(-5, 5), rng.uniform(-5, 5)
    boxes = [_bar_mask(bar, shift_x, shift_y) for bar in range(len(NOTES))]
    shades = rng.uniform(0.85, 1.15, len(NOTES))
    rest = np.broadcast_to(floor, (HEIGHT, WIDTH, 3)).copy()
    for box, shade in zip(boxes, shades, strict=True):
        rest += box[..., None] * (wood * shade - floor)
    struck = np.repeat(rest[None], len(NOTES), axis=0)
    for bar, (box, shade) in enumerate(zip(boxes, shades, strict=True)):
        moved = _bar_mask(bar, shift_x, shift_y + 2)
        struck[bar] -= box[..., None] * (wood * shade - floor)
        struck[bar] += moved[..., None] * (0.35 * wood * shade + 0.65 * light - floor)
    return rest, struck


def _bar_mask(bar: int, shift_x: float, shift_y: float) -> np.ndarray:
    """(H, W) coverage 0..1 of a bar: high notes are short; edges are anti-aliased so that shifts may be fractions."""
    pitch = WIDTH / (len(NOTES) + 1)
    centre_x, half_width = (bar + 1) * pitch + shift_x, 0.4 * pitch
    centre_y, half_height = HEIGHT / 2 + shift_y, HEIGHT * (0.38 - 0.02 * bar)
    columns = np.clip(half_width + 0.5 - np.abs(np.arange(WIDTH) + 0.5 - centre_x), 0, 1)
    rows = np.clip(half_height + 0.5 - np.abs(np.arange(HEIGHT) + 0.5 - centre_y), 0, 1)
    return np.outer(rows, columns).astype(np.float32)


def _lighting(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 1) a lamp from one side."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    rows, columns = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    lamp = rng.uniform(0.75, 1.1) * (1 + strength * (np.cos(angle) * columns + np.sin(angle) * rows))
    return lamp[..., None].astype(np.float32)


def _noise(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """(time, H, W, 1) sensor noise: one drawn field, read at another place in every frame."""
    field = rng.normal(0, rng.uniform(2, 14), (2 * HEIGHT, 2 * WIDTH)).astype(np.float32)
    tops, lefts = rng.integers(0, HEIGHT, num_frames), rng.integers(0, WIDTH, num_frames)
    return np.stack([field[top : top + HEIGHT, left : left + WIDTH] for top, left in zip(tops, lefts, strict=True)])[
        ..., None
    ]
