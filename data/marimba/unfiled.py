"""Clips straight to features, without files between: galleries larger than anybody wants to keep as video."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from data.marimba import picture, sound
from data.marimba.score import Clip
from scav_jax.features.extractors import LogMel, Pixels

VISUAL, AUDIO = Pixels(rate_hz=5.0), LogMel(rate_hz=8.0)  # as in prepare.py


def features(clips: Sequence[Clip], seed: int, num_workers: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Visual (B, 20, 192) and audio (B, 32, 64) features of clips, as their files would have but for the codecs' loss.

    The nuisances of a clip are drawn from the seed and its place.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the workers inherit it
    with ProcessPoolExecutor(num_workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        found = pool.map(partial(_one, seed), enumerate(clips), chunksize=32)
        visual, audio = zip(*tqdm(found, total=len(clips), unit="clip", desc="render"), strict=True)
    return np.stack(visual), np.stack(audio)


def _one(seed: int, job: tuple[int, Clip]) -> tuple[np.ndarray, np.ndarray]:
    index, clip = job
    picture_rng, sound_rng = (np.random.default_rng([seed, index, modality]) for modality in (0, 1))
    frames = picture.frames(clip, picture_rng)
    step = picture.FRAME_RATE_HZ / VISUAL.rate_hz
    shown = ((np.arange(round(len(frames) / step)) + 0.5) * step).astype(int)
    return VISUAL(frames[shown]), AUDIO(sound.wave(clip, sound_rng))
