"""The same numbers from ours: whatever a record holds, computed here from its inputs and parameters."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict
from tqdm import tqdm

from scav_jax import distances, losses, training
from scav_jax.models.activations import activations, module_names
from scav_jax.parity import convert
from scav_jax.parity.record import Record, batch

# Of the arithmetic: float64 and float32 in full, what this machine's matrix products do unasked, and what they may do.
PRECISIONS = ("float64", "float32", "default", "tensorfloat32", "bfloat16")
_MATMULS = {"float64": "highest", "float32": "highest", "default": None}


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Everything in here in one precision; "bfloat16" and "tensorfloat32" are of matrix products of float32."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected some of {', '.join(PRECISIONS)}, got {precision!r}")
    with ExitStack() as stack:
        stack.enter_context(jax.enable_x64(precision == "float64"))
        stack.enter_context(jax.default_matmul_precision(_MATMULS.get(precision, precision)))
        yield


def method(config: Any, name: str) -> FrozenConfigDict:
    """The config that trains with this distance."""
    changed = ConfigDict(config.to_dict())
    changed.method = "cav" if name == "cosine" else "scav"
    changed.distance.name = config.distance.name if name == "cosine" else name
    return FrozenConfigDict(changed)


def make(reference: Record, precision: str) -> Record:
    """What `reference` holds but curves: each part from the reference's inputs to it, and the whole from the first.

    Kept apart by name: "activation/..." of each module fed with the reference's activations, "composed/..." of towers
    fed with the inputs alone, "distance/..." of the reference's sequences, "loss/..." of the reference's distances,
    "gradient/..." of the whole, "updated/..." after the reference's gradient.
    """
    config = reference.config
    record = Record(config, about={"by": f"jax {jax.__version__}, {jax.default_backend()}", "precision": precision})
    with arithmetic(precision):
        dtype = jnp.float64 if precision == "float64" else jnp.float32
        parameters = _cast(parameters_of(reference), dtype)
        given = _cast(batch(reference.of("input"), config.model), dtype)
        seen = _cast(reference.of("activation"), dtype)
        _add_activations(record, config, parameters, given, seen)
        for name in reference.distances:
            _add_distance(record, method(config, name), name, parameters, given, seen, reference, dtype)
    return record


def parameters_of(record: Record) -> Any:
    """As `training.init` lays them out. WeightsError: they do not fit the record's config."""
    return convert.from_torch(record.of("parameter"), like(record.config))


def like(config: Any) -> Any:
    """The shapes of a config's parameters."""
    return jax.eval_shape(lambda: training.init(config)).parameters


def train(
    config: Any,
    parameters: Any,
    features: Mapping[str, np.ndarray],
    order: np.ndarray,
    name: str,
    precision: str,
) -> tuple[np.ndarray, Any]:
    """As `theirs.train`: losses of one step per row of `order`, dropout off, and the parameters after them."""
    config = method(config, name)
    with arithmetic(precision):
        dtype = jnp.float64 if precision == "float64" else jnp.float32
        parameters = _cast(parameters, dtype)
        state = training.make_optimizer(config).init(parameters)
        found = []
        for rows in tqdm(order, desc=f"ours {precision}, {name}", leave=False):
            given = _cast(batch({key: array[rows] for key, array in features.items()}, config.model), dtype)
            (loss, _), gradients = _gradient(config, parameters, given)
            parameters, state = _update(config, parameters, state, gradients)
            found.append(loss)
        return np.array(jax.device_get(found), np.float64), jax.device_get(parameters)


def _add_activations(record, config, parameters, given, seen):
    for modality, tower in config.model.items():
        name = f"towers.{modality}"
        inside = {key.removeprefix(f"{name}."): a for key, a in seen.items() if key.startswith(f"{name}.")}
        inputs = parameters["towers"][modality], given[modality], given[f"{modality}_mask"]
        known = jax.eval_shape(partial(_of_tower, tower), *inputs, {})
        inside = {key: inside[key] for key in module_names(tower) if key in inside}
        for key, array in inside.items():
            if array.shape != known[key].shape:
                raise ValueError(f"activation/{name}.{key}: expected shape {known[key].shape}, got {array.shape}")
        found = _activations(tower, *inputs, inside)
        record.add("activation", **{f"{name}.{key}": found[key] for key in inside})
    towers = _encode(config, parameters["towers"], given)
    record.add("composed", **{f"towers.{name}": sequences for name, (sequences, _) in towers.items()})


def _add_distance(record, config, name, parameters, given, seen, reference, dtype):
    sides = [f"towers.{modality}" for modality in config.pairs[0]]
    if name in reference.of("distance") and all(side in seen for side in sides):
        masks = [given[f"{modality}_mask"] for modality in config.pairs[0]]
        record.add("distance", **{name: _distances(name, config, *(seen[side] for side in sides), *masks)})
    (log_temperature,) = parameters["log_temperature"].values()
    if name in reference.of("distance") and name in reference.of("loss"):
        matrix = jnp.asarray(reference.of("distance")[name], dtype)
        record.add("loss", **{name: _loss(config.recipe[name].normalization, matrix, log_temperature)})
    gradients_there = reference.of("gradient", name)
    if not gradients_there and name not in reference.of("loss"):
        return
    (loss, _), gradients = _gradient(config, parameters, given)
    record.add("composed", **{name: loss})
    if not gradients_there:
        return
    record.add("gradient", name, **convert.to_torch(jax.device_get(gradients)))
    if reference.of("updated", name):
        carried = _cast(convert.from_torch(gradients_there, parameters), dtype)
        state = training.make_optimizer(config).init(parameters)
        updated, _ = _update(config, parameters, state, carried)
        record.add("updated", name, **convert.to_torch(jax.device_get(updated)))


# Compiled once for a config, whoever asks.
_encode = jax.jit(training.encode, static_argnums=0)
_update = jax.jit(training.update, static_argnums=0)


def _of_tower(config, parameters, *given):
    return activations(parameters, config, *given)


_activations = jax.jit(_of_tower, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _gradient(config, parameters, given):
    return training.gradient(config, parameters, given, None)


@partial(jax.jit, static_argnums=(0, 1))
def _distances(name, config, *sequences_and_masks):
    return distances.pairwise(name, *sequences_and_masks, **distances.options(name, config.distance))


@partial(jax.jit, static_argnums=0)
def _loss(normalization, matrix, log_temperature):
    return losses.contrastive_loss(matrix, jnp.exp(log_temperature), normalization=normalization)


def _cast(tree, dtype):
    """Numbers in this type; masks stay."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, bool if leaf.dtype == bool else dtype), tree)
