"""What both sides are given: a config, parameters, one batch, and batches to train on."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from scav_jax import config as configs
from scav_jax import files, parallel, trained, training
from scav_jax.features.pipeline import eval_batches
from scav_jax.features.store import Store, open_store
from scav_jax.parity import convert

CONFIGS = {"paper": "configs/base.py", "small": "configs/marimba.py"}
TRAIN_CLIPS = 512
PERTURBATION = 0.05  # of every parameter: biases begin as zeros and gains as ones, where errors of theirs do not show


@dataclass(frozen=True)
class Problem:
    """state: parameters by torch's names; inputs: one batch; start: parameters to train from; features and order
    (steps, B): batches to train on."""

    config: Any
    state: dict[str, np.ndarray]
    start: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    order: np.ndarray
    store: Store | None
    said: str


def make(config: Any, *, workdir: str | None, batch_size: int, steps: int, seed: int = 0) -> Problem:
    """Of a config, or of a trained run and its config. Clips are the store's where there is one, random otherwise.

    Parameters of no run are initial ones, with normal noise on every number but where training starts: it would amplify
    rounding out of all proportion. ValueError: no such run, a config that cannot be run.
    """
    start = None
    if workdir is not None:
        run = trained.load(files.at(workdir), parallel.make_mesh())
        config, start = run.config, convert.to_torch(jax.device_get(run.parameters))
    config = ConfigDict(config.to_dict())
    config.update(steps=max(2, steps), batch_size=batch_size, micro_batch_size=0, stream_distances=False)
    folder = Path(config.data.store)
    store = open_store(folder) if folder.exists() else None
    if store is not None and workdir is None:
        for name, tower in config.model.items():
            entry = store.ledger["modalities"][name]
            tower.update(feature_width=entry["width"], rate_hz=float(entry["rate_hz"]))
    configs.check(config)
    frozen = FrozenConfigDict(config)
    rng = np.random.default_rng(seed)
    if start is None:
        start = convert.to_torch(jax.device_get(training.init(frozen).parameters))
        state = {
            name: array if "temperature" in name else array + _noise(rng, array.shape) for name, array in start.items()
        }
    else:
        state = start
    features, said = _of_store(frozen, store, rng) if store else _random(frozen, rng)
    rows = np.arange(_clips(features))
    if batch_size > len(rows):
        raise ValueError(f"--batch-size: expected at most {len(rows)}, the clips there are, got {batch_size}")
    order = np.array([rng.permutation(rows)[:batch_size] for _ in range(max(1, steps))])
    inputs = {name: array[order[0]] for name, array in features.items()}
    whose = f"parameters of {workdir}" if workdir else "perturbed initial parameters"
    return Problem(frozen, state, start, inputs, features, order, store, f"{said}, {whose}")


def read_config(name: str) -> Any:
    """A config by its file, or "paper" or "small". ValueError: there is no such file."""
    path = Path(CONFIGS.get(name, name))
    if not path.is_file():
        raise ValueError(f"--config: expected paper, small or a file of configs/, got {name} (in a clone's root?)")
    spec = importlib.util.spec_from_file_location("parity_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.float32(PERTURBATION) * rng.standard_normal(shape, np.float32)


def _clips(features: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(features.values())))


def _of_store(config: Any, store: Store, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], str]:
    split = config.data.train_split
    rows = np.sort(rng.permutation(len(store.split(split)))[:TRAIN_CLIPS])
    (batch,) = eval_batches(store, split, len(rows), rows)
    names = [name for modality in config.model for name in (modality, f"{modality}_mask")]
    features = {name: batch[name] for name in names if batch[name] is not None}
    return features, f"{len(rows)} clips of {config.data.store}"


def _random(config: Any, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], str]:
    """Random walks that both modalities of a clip see, through maps of their own."""
    knots, hidden = 8, 16
    walks = rng.standard_normal((TRAIN_CLIPS, knots, hidden)).cumsum(axis=1) / np.sqrt(knots)
    features = {}
    for name, tower in config.model.items():
        length = max(2, round(tower.max_distance_s * tower.rate_hz))
        at = np.linspace(0, knots - 1, length)
        left = np.minimum(at.astype(int), knots - 2)
        part = (at - left)[:, None]
        seen = walks[:, left] * (1 - part) + walks[:, left + 1] * part
        seen = seen @ (rng.standard_normal((hidden, tower.feature_width)) / np.sqrt(hidden))
        features[name] = (seen + 0.3 * rng.standard_normal(seen.shape)).astype(np.float32)
    return features, f"{TRAIN_CLIPS} clips of random walks (no store at {config.data.store})"
