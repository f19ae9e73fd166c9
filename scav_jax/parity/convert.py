"""Parameters under PyTorch's names and layouts, and back: strict, and bit for bit.

The names are those of `twin.Twin`, the plain PyTorch model: docs/parity.md lists them. A linear map is (out, in) there
and (in, out) here; layers have names of their own there and a leading axis here; query, key and value are three maps
there and one here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from scav_jax.models.weights import WeightsError, read_weights

State = dict[str, np.ndarray]


class Piece(NamedTuple):
    """One array there: its name, which part of a leaf here it is, and whether it is turned over."""

    name: str
    part: tuple
    turned: bool


def to_torch(parameters: Mapping[str, Any]) -> State:
    """Parameters as `training.init` makes them (towers, log_temperature) -> a state dict, in the same types."""
    state = {}
    for path, leaf in _leaves(parameters):
        array = np.asarray(leaf)
        for name, part, turned in _pieces(path, array.shape, parameters):
            state[name] = array[part].T if turned else array[part]
    return {name: np.array(array, order="C") for name, array in state.items()}


def from_torch(state: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> Any:
    """A state dict -> parameters of the structure and shapes of `like` (`jax.eval_shape` of `training.init` will do).

    WeightsError: lists every name that is missing, left over or of another shape. A square matrix that was turned over
    has the right shape: only what the model then computes tells.
    """
    leaves = _leaves(like)
    expected = {
        piece.name: np.broadcast_to(np.float32(0), leaf.shape)[piece.part].shape[:: -1 if piece.turned else 1]
        for path, leaf in leaves
        for piece in _pieces(path, leaf.shape, like)
    }
    problems = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - state.keys())]
    problems += [f"unexpected {name} {np.shape(state[name])}" for name in sorted(state.keys() - expected.keys())]
    problems += [
        f"{name}: expected shape {shape}, got {np.shape(state[name])}"
        for name, shape in sorted(expected.items())
        if name in state and np.shape(state[name]) != shape
    ]
    if problems:
        raise WeightsError(f"{len(problems)} of {len(expected)} arrays do not fit: " + "; ".join(problems))

    def filled(path, leaf):
        pieces = list(_pieces(path, leaf.shape, like))
        array = np.empty(leaf.shape, state[pieces[0].name].dtype)
        for name, part, turned in pieces:
            array[part] = state[name].T if turned else state[name]
        return array

    return jax.tree.unflatten(jax.tree.structure(like), [filled(path, leaf) for path, leaf in leaves])


def write_safetensors(state: Mapping[str, np.ndarray], path: str | Path) -> None:
    """A state dict as a file that torch, and `read_state`, load."""
    from safetensors.numpy import save_file

    save_file(dict(state), path)


def read_state(path: str | Path) -> State:
    """The state dict of a .safetensors or PyTorch file, read without torch. WeightsError: as `weights.read_weights`."""
    return dict(read_weights(path).arrays)


def _leaves(parameters: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    return [(tuple(key.key for key in path), leaf) for path, leaf in jax.tree.leaves_with_path(parameters)]


def _pieces(path: tuple[str, ...], shape: tuple[int, ...], parameters: Mapping[str, Any]) -> Iterator[Piece]:
    """The arrays there that one leaf here is made of."""
    *modules, kind = path
    if "blocks" in modules:
        at = modules.index("blocks") + 1
        for layer in range(shape[0]):
            yield from _of_layer([*modules[:at], str(layer), *modules[at:]], kind, shape[1:], (layer,))
    else:
        if "mlp" in modules:
            hidden = len(parameters["towers"][modules[1]]["mlp"]) - 1
            module = modules.pop()
            modules.append(str(2 * (hidden if module == "output" else int(module.removeprefix("hidden_")))))
        yield from _of_layer(modules, kind, shape, ())


def _of_layer(modules: list[str], kind: str, shape: tuple[int, ...], layer: tuple) -> Iterator[Piece]:
    *above, module = modules
    turned = kind == "kernel"
    name = "weight" if kind in ("kernel", "scale") else kind
    if module == "query_key_value":
        width = shape[-1] // 3
        for number, third in enumerate(("query", "key", "value")):
            part = (*layer, ..., slice(number * width, (number + 1) * width))
            yield Piece(".".join([*above, third, name]), part, turned)
        return
    if kind == "position_table":
        modules, name = [*modules, kind], "weight"
    elif above and above[-1] == "ffn":
        modules = [*above, {"inner": "0", "outer": "2"}[module]]
    yield Piece(".".join([*modules, name]), layer or (...,), turned)
