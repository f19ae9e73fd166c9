"""Pretrained weights from a local file into the parameters of a network: strictly, and without running what it holds.

Files: .safetensors, flax_model.msgpack (flax.serialization), and PyTorch's zip archives (.pt, .pth, .bin; TorchScript
too). All are read under PyTorch's names and in its layouts, so that one rule turns any of them into parameters.
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from msgpack.exceptions import UnpackException

from scav_jax.models import torch_files

# Published files, by the sha256 that their publisher gives. OpenAI writes it into the addresses of its models
# (github.com/openai/CLIP, clip/clip.py).
KNOWN = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "clip-vit-b32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "clip-vit-b16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "clip-vit-l14",
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762": "clip-rn50",
}

_DAMAGED = (
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    pickle.PickleError,
    UnpackException,
)


class WeightsError(ValueError):
    """A file of weights that cannot be used: names the file, what was expected, and what came."""


@dataclass(frozen=True)
class Weights:
    """One file's arrays by PyTorch's names, `config` where it brings one ('cfg' of BEATs), and the file's sha256."""

    path: Path
    sha256: str
    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None = None

    @property
    def known_as(self) -> str | None:
        """The published model that this file is, by its sha256; None where it is not in KNOWN."""
        return KNOWN.get(self.sha256)

    def check_model(self, name: str) -> None:
        """WeightsError where this file is known to be another model than `name`."""
        if self.known_as not in (None, name):
            raise WeightsError(f"{self.path}: expected weights of {name}, got those of {self.known_as} (by sha256)")

    def under(self, prefix: str) -> "Weights":
        """The arrays whose names begin with `prefix`, without it."""
        arrays = {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}
        return replace(self, arrays=arrays)

    def without(self, *patterns: str) -> "Weights":
        """Without the arrays whose whole names match one of the regular expressions."""
        dropped = re.compile("|".join(patterns))
        return replace(self, arrays={name: a for name, a in self.arrays.items() if not dropped.fullmatch(name)})

    def renamed(self, rename: Callable[[str], str]) -> "Weights":
        return replace(self, arrays={rename(name): array for name, array in self.arrays.items()})


def read_weights(path: str | Path) -> Weights:
    """Reads a file of weights. WeightsError: none there, of another format, damaged, or a pickle that asks for more
    than tensors (nothing of it is called)."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: expected a file of weights, found none")
    with path.open("rb") as file:
        head = file.read(9)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        if head[:2] == b"PK":
            content = torch_files.read(path)
        elif head[8:9] == b"{":
            content = _read_safetensors(path)
        elif head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
            raise ValueError("a pickle that is no zip archive, as PyTorch wrote before 1.6; save it anew there")
        else:
            content = _read_msgpack(path)
    except torch_files.Forbidden as error:
        raise WeightsError(f"{path}: expected tensors only, got a pickle that asks for {error}: refused") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path}: expected .safetensors, .msgpack or PyTorch weights: {reason}") from error
    config = None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        config, content = content.get("cfg"), content["model"]
        if not isinstance(config, Mapping):
            raise WeightsError(f"{path}: expected a 'cfg' beside 'model', got {type(config).__name__}")
    if not isinstance(content, Mapping) or not all(isinstance(array, np.ndarray) for array in content.values()):
        raise WeightsError(f"{path}: expected named arrays, got {type(content).__name__}")
    return Weights(path, sha256, dict(content), config)


def fill(shapes: Any, weights: Weights) -> Any:
    """The arrays of a file in a tree of parameters of these shapes, float32.

    A leaf's name is its path with dots, `kernel`, `scale` and `embedding` being PyTorch's `weight`; kernels of linear
    maps and convolutions are transposed. WeightsError: lists every name that is missing, left over, of another shape,
    or not finite.
    """
    leaves, structure = jax.tree.flatten_with_path(shapes)
    names = ["".join(f".{getattr(key, 'key', key)}" for key in path)[1:] for path, _ in leaves]
    expected = {_torch_name(name): leaf.shape for name, (_, leaf) in zip(names, leaves, strict=True)}
    arrays = {name: _from_torch(array) if name.endswith("weight") else array for name, array in weights.arrays.items()}
    # A vector, an embedding and a linear map may all be called weight: those that are no kernels stay as they are.
    kept = {_torch_name(name) for name in names if not name.endswith("kernel")}
    arrays |= {name: weights.arrays[name] for name in kept & arrays.keys()}
    problems = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - arrays.keys())]
    problems += [f"unexpected {name} {arrays[name].shape}" for name in sorted(arrays.keys() - expected.keys())]
    for name in sorted(expected.keys() & arrays.keys()):
        if arrays[name].shape != expected[name]:
            problems.append(f"{name}: expected shape {expected[name]}, got {arrays[name].shape}")
        elif not np.isfinite(arrays[name].astype(np.float32)).all():
            problems.append(f"{name}: expected finite numbers, got NaN or Inf")
    if problems:
        raise WeightsError(
            f"{weights.path}: {len(problems)} of {len(expected)} arrays do not fit (shapes as in JAX): "
            + "; ".join(problems)
        )
    return jax.tree.unflatten(structure, [arrays[_torch_name(name)].astype(np.float32) for name in names])


def _torch_name(name: str) -> str:
    return re.sub(r"(^|\.)(kernel|scale|embedding)$", r"\1weight", name)


def _from_torch(array: np.ndarray) -> np.ndarray:
    """(out, in, *window) -> (*window, in, out), the layout of a Flax kernel."""
    return array.transpose(*range(2, array.ndim), 1, 0) if array.ndim >= 2 else array


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError("reading .safetensors needs safetensors: pip install 'scav-jax[media]'") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read_msgpack(path: Path) -> dict[str, np.ndarray]:
    """A nested dict of Flax parameters under PyTorch's names and layouts."""
    from flax.serialization import msgpack_restore

    arrays: dict[str, np.ndarray] = {}

    def visit(tree: Mapping[str, Any], prefix: str) -> None:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                visit(value, f"{prefix}{name}.")
                continue
            array = np.asarray(value)
            if name == "kernel":  # (*window, in, out) -> (out, in, *window)
                array = array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
            arrays[_torch_name(prefix + name)] = array

    content = msgpack_restore(path.read_bytes())
    if not isinstance(content, Mapping):
        raise ValueError(f"not a dict of arrays but {type(content).__name__}")
    visit(content, "")
    return arrays
