"""What a model computed, by name: inputs, parameters, activations, distances, losses, gradients, updates, curves.

A record is one flat mapping of names to NumPy arrays, and on disk an .npz file of them (docs/parity.md, "The format of
a dump"). Only `config`, inputs and parameters must be there; whatever else is, is compared.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from scav_jax import config as configs

KINDS = ("input", "parameter", "activation", "distance", "loss", "gradient", "updated", "start", "train", "curve")


@dataclass
class Record:
    """config: of the model, as of train.py. about: who computed this, and in which type. arrays: "kind/name" -> array.

    Names: "input/visual", "input/visual_mask"; "parameter/NAME" with the names of `convert`; "activation/MODULE", what
    that module of the twin gives back; "distance/NAME" (B, B) of the towers' sequences; "loss/NAME" of that matrix;
    "gradient/DISTANCE/NAME" of that loss in every parameter; "updated/DISTANCE/NAME" after one update with it;
    "start/NAME" parameters to train from, "train/visual" (clips, length, D), "train/order" (steps, B) rows of it,
    "curve/DISTANCE" (steps,) losses.
    """

    config: Any
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def of(self, *prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with these parts, without them."""
        start = "/".join(prefix) + "/"
        return {name.removeprefix(start): array for name, array in self.arrays.items() if name.startswith(start)}

    def add(self, *prefix: str, **arrays: Any) -> None:
        self.arrays |= {"/".join([*prefix, name]): np.asarray(array) for name, array in arrays.items()}

    @property
    def distances(self) -> list[str]:
        """Those that are trained with, or compared."""
        named = [*self.of("distance"), *self.of("loss"), *self.of("curve")]
        named += [name.partition("/")[0] for name in self.of("gradient")]
        return list(dict.fromkeys(named))

    def save(self, path: str | Path) -> None:
        text = json.dumps({"config": self.config.to_dict(), "about": self.about})
        contents: dict[str, Any] = {"config": np.array(text), **self.arrays}
        np.savez(path, **contents)


def batch(arrays: Mapping[str, Any], modalities: Any) -> dict[str, Any]:
    """The inputs of a batch as `training` takes them: every modality, and its mask or None."""
    return {key: arrays.get(key) for name in modalities for key in (name, f"{name}_mask")}


def load(path: str | Path) -> Record:
    """ValueError: no such file, no .npz, no config, no inputs or parameters, a name of an unknown kind."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a dump, found no such file")
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected an .npz file of arrays: {error}") from error
    if "config" not in arrays:
        raise ValueError(f"{path}: expected an entry 'config', the JSON of the model's config")
    try:
        said = json.loads(str(arrays.pop("config")))
        config = FrozenConfigDict(ConfigDict(said.get("config", said)))
        configs.check(config)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: config: {error}") from error
    unknown = sorted(name for name in arrays if name.partition("/")[0] not in KINDS)
    if unknown:
        raise ValueError(f"{path}: {unknown[0]}: expected a name that begins with one of {', '.join(KINDS)}")
    record = Record(config, arrays, said.get("about", {}))
    for kind, needed in (("input", sorted(config.model)), ("parameter", [])):
        found = record.of(kind)
        if not found or (missing := [name for name in needed if name not in found]):
            names = missing if found else needed or ["..."]
            raise ValueError(f"{path}: expected {', '.join(f'{kind}/{name}' for name in names)}, found none")
    return record
