"""PyTorch's files read without PyTorch: a pickle machine that builds tensors and containers, and runs nothing else.

A pickle may name any function and have it called. Here the names that lead to tensors are answered by inert stand-ins
of this file, and every other name is an error, before anything of it happens.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Forbidden(Exception):
    """A pickle that names what no tensor needs."""


class _Module:
    """An object of a TorchScript archive: its attributes, never its code."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    if len(shape) != len(strides) or min((offset, *shape, *strides), default=0) < 0:
        raise ValueError(f"expected an offset and strides of shape {shape}, got {offset} and {strides}")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(storage):
        raise ValueError(f"expected a storage of at least {last + 1} numbers, got {len(storage)}")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


_ALLOWED: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.jit._pickle", "build_intlist"): list,
    ("torch.jit._pickle", "build_doublelist"): list,
    ("torch.jit._pickle", "build_boollist"): list,
    ("torch.jit._pickle", "build_tensorlist"): list,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, pickled: str):
        super().__init__(archive.open(pickled))
        self._archive, self._folder = archive, pickled.removesuffix("data.pkl")
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) not in _ALLOWED:
            raise Forbidden(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, identity: Any) -> np.ndarray:
        kind, dtype, key, _device, size = identity[:5]
        if kind != "storage" or not isinstance(key, str):
            raise ValueError(f"expected a storage, got {kind!r}")
        if key not in self._storages:
            content = self._archive.read(f"{self._folder}data/{key}")
            self._storages[key] = np.frombuffer(content, dtype)
            if len(self._storages[key]) < size:
                raise ValueError(f"expected {size} numbers in storage {key}, got {len(self._storages[key])}")
        return self._storages[key]


def read(path: Path) -> Any:
    """What torch.save or torch.jit.save wrote: nested containers with NumPy arrays for tensors; of a scripted module
    its state dict.

    Raises:
      Forbidden: the pickle names something that no tensor needs; nothing was called.
      ValueError, KeyError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError: the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"expected one data.pkl in the archive, got {len(pickles)}")
        content = _Unpickler(archive, pickles[0]).load()
    return _state_dict(content) if isinstance(content, _Module) else content


def _state_dict(module: _Module, prefix: str = "") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            arrays |= _state_dict(value, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray):
            arrays[prefix + name] = value
    return arrays
