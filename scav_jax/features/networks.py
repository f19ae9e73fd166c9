"""Pretrained networks over what the workers decoded: many clips a call, spread over this host's devices.

The one place where features meet models and devices. Every program has a fixed shape and runs in shard_map without
collectives, so that a clip's features depend neither on its neighbours nor on the number of devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scav_jax import parallel
from scav_jax.features.extractors import Beats, ClipFrames
from scav_jax.models import beats, clip
from scav_jax.models.frozen import PRECISIONS, Parameters

TOGETHER = 8  # clips a device that are gathered before the networks see them
FRAMES = 64  # pictures a device and call
_SOUNDS_S = 40  # of sound a device and call, at least one clip
_LENGTHS_S = (5, 10, 15, 20, 30, 40, 60, 90, 120)  # sounds are padded to the next one: a program each
_ROWS = 16  # frames are padded to a multiple before they are resized on the device


class Program:
    """A compiled step with its parameters on every device: a batch on the host -> its results on the host."""

    def __init__(self, step: Callable, parameters: Parameters, mesh: Mesh):
        self.mesh = mesh
        self.parameters = parallel.replicate(parameters, mesh)
        self.compiled = jax.jit(parallel.on_every_device(step, mesh, results_are_spread=True))

    def __call__(self, batch: Any) -> np.ndarray:
        return np.asarray(self.compiled(self.parameters, parallel.spread_whole(batch, self.mesh)))


@dataclass(frozen=True)
class Encoder:
    """What several clips' media are, read by the extractor -> their features, (length, width) each."""

    program: Program
    batches: Callable[[Program, Sequence[np.ndarray]], list[np.ndarray]]

    def __call__(self, media: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.batches(self.program, media)

    @property
    def together(self) -> int:
        """Clips that are worth a call."""
        return TOGETHER * self.program.mesh.size


def load(
    extractor: ClipFrames | Beats, weights: str | Path | None, mesh: Mesh | None = None
) -> tuple[ClipFrames | Beats, Encoder]:
    """The extractor with the hash of its weights, and what computes its features, on this host's devices or a mesh.

    Without a file the weights are random. ValueError: settings that do not exist; WeightsError: a file that does not
    fit.
    """
    mesh = parallel.make_mesh(jax.local_devices()) if mesh is None else mesh
    if extractor.precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {extractor.precision!r}")
    if isinstance(extractor, ClipFrames):
        return _load_clip(extractor, weights, mesh)
    return _load_beats(extractor, weights, mesh)


def _load_clip(extractor: ClipFrames, path: str | Path | None, mesh: Mesh) -> tuple[ClipFrames, Encoder]:
    model, output = extractor.model, extractor.output
    if path is None:
        parameters = clip.init(0, model, output)
    else:
        parameters, weights = clip.load(path, model, output)
        extractor = replace(extractor, weights=weights.sha256)

    def step(parameters, pictures, axis_name=None):
        return clip.apply(parameters, clip.MODELS[model], output, pictures, extractor.precision)

    batches = _encode_pictures if extractor.resize == "host" else _encode_frames
    return extractor, Encoder(Program(step, parameters, mesh), batches)


def _load_beats(extractor: Beats, path: str | Path | None, mesh: Mesh) -> tuple[Beats, Encoder]:
    if path is None:
        config = beats.BeatsConfig()
        parameters = beats.init(0, config)
    else:
        parameters, config, weights = beats.load(path)
        extractor = replace(extractor, weights=weights.sha256)

    def step(parameters, batch, axis_name=None):
        return beats.apply(parameters, config, batch["waveforms"], batch["lengths"], extractor.precision)

    return extractor, Encoder(Program(step, parameters, mesh), _encode_sounds)


def _encode_pictures(run: Program, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(n, 224, 224, 3) of each clip -> (n, width) of each; the frames of all clips side by side fill the batches."""
    size = FRAMES * run.mesh.size
    frames = np.concatenate(pictures)
    frames = np.concatenate([frames, np.zeros((-len(frames) % size, *frames.shape[1:]), np.uint8)])
    vectors = np.concatenate([run(frames[first : first + size]) for first in range(0, len(frames), size)])
    ends = np.cumsum([len(part) for part in pictures])
    return np.split(vectors[: ends[-1]], ends[:-1])


def _encode_sounds(run: Program, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Waveforms (S,) -> (steps, width) of each; those padded to one length share a batch."""
    steps: dict[int, np.ndarray] = {}
    lengths_s = [next(length for length in _LENGTHS_S if len(sound) <= length * beats.RATE_HZ) for sound in sounds]
    for length_s in sorted(set(lengths_s)):
        size = max(1, _SOUNDS_S // length_s) * run.mesh.size
        members = [index for index, other in enumerate(lengths_s) if other == length_s]
        for first in range(0, len(members), size):
            part = members[first : first + size]
            waveforms = np.zeros((size, length_s * beats.RATE_HZ), np.float32)
            lengths = np.full(size, beats.MIN_SAMPLES, np.int32)
            for row, index in enumerate(part):
                waveforms[row, : len(sounds[index])], lengths[row] = sounds[index], len(sounds[index])
            encoded = run({"waveforms": waveforms, "lengths": lengths})
            steps |= {index: encoded[row, : beats.num_steps(lengths[row])] for row, index in enumerate(part)}
    return [steps[index] for index in range(len(sounds))]


def _encode_frames(run: Program, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(n, height, width, 3) of each clip -> (n, width) of each."""
    padding = [np.zeros((-len(part) % _ROWS, *part.shape[1:]), np.uint8) for part in frames]
    padded = (jnp.asarray(np.concatenate(pair)) for pair in zip(frames, padding, strict=True))
    pictures = [np.asarray(clip.resize(part)) for part in padded]
    return _encode_pictures(run, [part[: len(own)] for part, own in zip(pictures, frames, strict=True)])
