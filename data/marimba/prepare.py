"""From nothing to a store: render the clips, extract their features, pack them; each stage redoes only what is missing.

OUT/world/media/<split>/<id>.mp4, clips.csv, strokes.json, features/<id>.npz
OUT/store
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.marimba import score
from scav_jax import files
from scav_jax.features import clips as clip_table
from scav_jax.features import store
from scav_jax.features.extract import extract
from scav_jax.features.extractors import Extractor, make_extractor

ROOT = "data/marimba"
ROOTS = {"demo": ROOT, "hard": f"{ROOT}/hard"}  # of each difficulty
LIGHT, NETWORKS = "pixels+logmel", "clip+beats"
SEED = 1  # 0 is the world on which difficulty and distance options were tried; nobody looks at 1 before the end
VERSION = 1  # of score, picture and sound: another number, another world


def prepare(
    out: str | Path | None = None,
    *,
    difficulty: str = "demo",
    seed: int = SEED,
    scale: float = 1.0,
    extractor: str = LIGHT,
    clip_weights: str | None = None,
    beats_weights: str | None = None,
    num_workers: int | None = None,
) -> None:
    """Renders, extracts and packs the world that (difficulty, seed, scale) stand for, where it is not there yet.

    out: the folder of world/ and store/ (None: the difficulty's of ROOTS). extractor: LIGHT, or NETWORKS with these
    files of weights, random where there is none. ValueError where `out` holds another world, or where a stage fails.
    """
    # One process a core: BLAS threads on top of them only fight for the cores. The workers inherit it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    out = Path(out or ROOTS[difficulty])
    world = out / "world"
    clips = score.clips(seed, scale, score.DIFFICULTIES[difficulty])
    with files.alone_in(world):  # all processes of a run begin with this
        settings: dict[str, Any] = {"version": VERSION, "seed": seed, "scale": scale}
        settings |= {"extractor": extractor} if extractor != LIGHT else {}
        _keep_settings(world, settings | ({"difficulty": difficulty} if difficulty != "demo" else {}))
        if not (out / "store").exists():
            extractors, encoders = _extractors(extractor, clip_weights, beats_weights)
            _prepare(clips, out, seed, extractors, encoders, num_workers or os.cpu_count() or 1)


def prepare_missing(store: str) -> None:
    """Makes a store of ours where there is none yet; leaves any other alone."""
    for difficulty, root in ROOTS.items():
        if store == f"{root}/store" and not Path(store).exists():
            prepare(difficulty=difficulty)


def _extractors(
    name: str, clip_weights: str | None, beats_weights: str | None
) -> tuple[list[Extractor], dict[str, Any]]:
    if name == LIGHT:
        return [make_extractor("pixels", rate_hz=5.0), make_extractor("logmel", rate_hz=8.0)], {}
    if name != NETWORKS:
        raise ValueError(f"extractor: expected {LIGHT} or {NETWORKS}, got {name!r}")
    from scav_jax.features import networks
    from scav_jax.features.extractors import Beats, ClipFrames

    visual, see = networks.load(ClipFrames(), clip_weights)
    audio, hear = networks.load(Beats(), beats_weights)
    return [visual, audio], {"visual": see, "audio": hear}


def _prepare(
    clips: list[score.Clip],
    out: Path,
    seed: int,
    extractors: list[Extractor],
    encoders: dict[str, Any],
    num_workers: int,
) -> None:
    world = out / "world"
    print(
        f"marimba: rendering {len(clips)} clips of {clips[0].difficulty.clip_s:g} s into {world / 'media'}", flush=True
    )
    render(clips, world, seed, num_workers)
    print("marimba: extracting features", flush=True)
    report = extract(
        world / "media",
        world / "features",
        extractors,
        encoders=encoders,
        num_workers=num_workers,
    )
    if report.bad:
        raise ValueError(f"{world / 'media'}: {len(report.bad)} clips cannot be read; delete them to render them again")
    print(f"marimba: packing {out / 'store'}", flush=True)
    store.build(world / "features", out / "store", world / "clips.csv", name="marimba", media=world / "media")


def render(clips: list[score.Clip], world: Path, seed: int, num_workers: int) -> None:
    """Writes the clips' .mp4 files that are missing, then the tables of clips and strokes."""
    for split in score.COUNTS:
        (world / "media" / split).mkdir(parents=True, exist_ok=True)
    todo = [(index, clip) for index, clip in enumerate(clips) if not _path(world, clip).exists()]
    # spawn: forking a process that runs JAX's threads can deadlock
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        done = pool.map(partial(_render_one, world, seed), todo, chunksize=8)
        for _ in tqdm(done, total=len(todo), unit="clip", desc="render"):
            pass
    clip_table.write_clips(
        world / "clips.csv",
        [clip_table.Clip(clip.id, clip.split, clip.label, clip.group, clip.subset) for clip in clips],
    )
    strokes = {
        clip.id: {"bars": clip.bars, "picture_s": clip.picture_onsets_s, "sound_s": clip.sound_onsets_s}
        for clip in clips
    }
    (world / "strokes.json").write_text(json.dumps(strokes))


def _render_one(world: Path, seed: int, job: tuple[int, score.Clip]) -> None:
    import numpy as np

    from data.marimba import picture, sound
    from scav_jax.features.media import write_clip

    index, clip = job
    # Two streams of random numbers: the nuisances of picture and sound must not know of each other.
    picture_rng, sound_rng = (np.random.default_rng([seed, index, modality]) for modality in (0, 1))
    write_clip(
        _path(world, clip),
        picture.frames(clip, picture_rng),
        sound.wave(clip, sound_rng),
        frame_rate_hz=picture.FRAME_RATE_HZ,
        sound_rate_hz=sound.RATE_HZ,
    )


def _path(world: Path, clip: score.Clip) -> Path:
    return world / "media" / clip.split / f"{clip.id}.mp4"


def _keep_settings(world: Path, settings: dict[str, Any]) -> None:
    path = world / "world.json"
    if path.exists():
        kept = json.loads(path.read_text())
        if kept != settings:
            raise ValueError(
                f"{world}: holds the world of {kept}, not of {settings}; delete it or choose another --out"
            )
        return
    path.write_text(json.dumps(settings))
