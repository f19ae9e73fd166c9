"""The record of the twin: what plain PyTorch computes, forward, backward, one update and many."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from scav_jax.parity.record import Record, batch
from scav_jax.parity.twin import Optimizer, Twin

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def make(
    config: Any,
    parameters: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    names: Sequence[str],
    precision: str = "float32",
    twin: type[Twin] = Twin,
) -> Record:
    """Everything but curves. parameters: a state dict; inputs: "visual", "audio" and, where ragged, their masks."""
    record = Record(config, about={"by": f"torch {torch.__version__}", "precision": precision})
    record.add("input", **inputs)
    record.add("parameter", **parameters)
    dtype = DTYPES[precision]
    given = _batch(inputs, config, dtype)
    model = load(twin, config, parameters, dtype)
    with _activations(model) as seen, torch.no_grad():
        model(given)
    record.add("activation", **seen)
    for name in names:
        model = load(twin, config, parameters, dtype)
        distances = model.distances(name, model(given), given)
        loss = model.loss(name, distances)
        loss.backward()
        record.add("distance", **{name: distances.detach().numpy()})
        record.add("loss", **{name: loss.detach().numpy()})
        record.add("gradient", name, **{key: _gradient(value) for key, value in model.named_parameters()})
        Optimizer(model, name).step()
        record.add("updated", name, **{key: value.detach().numpy() for key, value in model.named_parameters()})
    return record


def train(
    config: Any,
    parameters: Mapping[str, np.ndarray],
    features: Mapping[str, np.ndarray],
    order: np.ndarray,
    name: str,
    precision: str,
    twin: type[Twin] = Twin,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The losses of one step per row of `order` (steps, B) of clips, dropout off, and the parameters after them."""
    dtype = DTYPES[precision]
    model = load(twin, config, parameters, dtype)
    optimizer = Optimizer(model, name)
    losses = []
    for rows in tqdm(order, desc=f"torch {precision}, {name}", leave=False):
        given = _batch({key: array[rows] for key, array in features.items()}, config, dtype)
        loss = model.loss(name, model.distances(name, model(given), given))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), {key: value.detach().numpy() for key, value in model.named_parameters()}


def load(twin: type[Twin], config: Any, parameters: Mapping[str, np.ndarray], dtype: torch.dtype) -> Twin:
    """A twin that holds these parameters, without dropout."""
    model = twin(config).to(dtype).eval()
    model.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in parameters.items()})
    return model


@contextmanager
def _activations(model: Twin) -> Iterator[dict[str, np.ndarray]]:
    """What every module gives back, by its name, while this lasts."""
    seen: dict[str, np.ndarray] = {}
    hooks = []
    for name, module in model.named_modules():

        def keep(module, inputs, output, name=name):
            if isinstance(output, torch.Tensor):
                seen[name] = output.detach().numpy().copy()

        hooks.append(module.register_forward_hook(keep))
    yield seen
    for hook in hooks:
        hook.remove()


def _gradient(parameter: torch.Tensor) -> np.ndarray:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.detach().numpy().copy()


def _batch(arrays: Mapping[str, np.ndarray], config: Any, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    cast = {name: t if t.dtype == torch.bool else t.to(dtype) for name, t in tensors.items()}
    return batch(cast, config.model)
