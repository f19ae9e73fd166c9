"""Training as pure functions: the state, how it begins, the loss and its gradient, one step.

The same step serves one device and, with axis_name, every device of a mesh axis inside jax.shard_map: the batch is then
the device's own clips, parameters and results are the same on all.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from scav_jax import distances, losses, parallel
from scav_jax.config import TEMPERATURE_RANGE, recipe, trained_with
from scav_jax.models import encoder
from scav_jax.shapes import Masks, Sequences

Batch = dict[str, Any]


class TrainState(NamedTuple):
    """All that training carries from step to step. `skipped` counts steps in a row whose gradient was not finite."""

    step: Int[Array, ""]
    parameters: dict[str, Any]
    optimizer_state: Any
    skipped: Int[Array, ""]


def init(config: Any) -> TrainState:
    """The state before the first step; config.seed decides every number in it."""
    keys = jax.random.split(jax.random.key(config.seed), len(config.model))
    towers = {name: encoder.init(key, config.model[name]) for key, name in zip(keys, sorted(config.model), strict=True)}
    temperature = jnp.log(jnp.float32(recipe(config).temperature))
    parameters = {"towers": towers, "log_temperature": {_pair_name(pair): temperature for pair in config.pairs}}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, parameters, make_optimizer(config).init(parameters), zero)


def learning_rate(config: Any) -> optax.Schedule:
    """Linear warm-up, then a cosine: fractions of config.steps, so that any number of steps is a whole schedule."""
    peak = recipe(config).learning_rate
    warmup = min(max(1, round(config.optimizer.warmup_fraction * config.steps)), config.steps - 1)
    end = config.optimizer.end_fraction * peak
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, config.steps, end)
    # One step late, or the first update would be multiplied by zero. A float: of whole numbers optax makes float32.
    return lambda step: schedule(jnp.asarray(step, float) + 1)


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """AdamW on clipped gradients; only matrices decay."""
    section = config.optimizer
    return optax.chain(
        optax.clip_by_global_norm(section.clip_norm),
        optax.adamw(
            learning_rate(config), b1=section.b1, b2=section.b2, weight_decay=section.weight_decay, mask=_decays
        ),
    )


def encode(
    config: Any, towers: dict[str, Any], batch: Batch, keys: Key[Array, " B"] | None = None
) -> dict[str, tuple[Sequences, Masks | None]]:
    """Each modality's features -> (sequences (B, length, d), mask); `keys` (B,) one a clip for dropout, or None."""
    encoded = {}
    for index, name in enumerate(sorted(config.model)):
        mask = batch[f"{name}_mask"]
        rng = None if keys is None else jax.vmap(lambda key, index=index: jax.random.fold_in(key, index))(keys)
        encoded[name] = (
            encoder.apply(towers[name], config.model[name], batch[name], mask, rng=rng),
            mask,
        )
    return encoded


def contrast(
    config: Any, log_temperatures: dict[str, Array], encoded: dict[str, tuple], axis_name: str | None = None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean contrastive loss over config.pairs of the encoded global batch, and what the log shows beside it."""
    found, metrics = [], {}
    name = trained_with(config)
    options = distances.options(name, config.distance)
    for pair in config.pairs:
        (x, x_mask), (y, y_mask) = (encoded[modality] for modality in pair)
        log_temperature = log_temperatures[_pair_name(pair)]
        if not recipe(config).temperature_learned:
            log_temperature = jax.lax.stop_gradient(log_temperature)
        temperature, normalization = jnp.exp(log_temperature), recipe(config).normalization
        if config.stream_distances:
            sequences = x, y, x_mask, y_mask
            loss, spread = losses.of_sequences(name, *sequences, temperature, normalization, axis_name, **options)
        else:
            matrix = parallel.all_pairs(name, x, y, x_mask, y_mask, axis_name=axis_name, **options)
            loss, spread = losses.of_matrix(matrix, temperature, normalization, axis_name)
        found.append(loss)
        metrics["temperature"] = temperature
        metrics["positive_distance"] = spread.positive
        metrics["mean_distance"] = spread.mean
        metrics["hardest_distance"] = spread.hardest
        metrics["distance_deviation"] = spread.deviation
    return jnp.mean(jnp.stack(found)), metrics


def gradient(
    config: Any, parameters: dict[str, Any], batch: Batch, keys: Key[Array, " B"] | None, axis_name: str | None = None
) -> tuple[tuple[Float[Array, ""], dict[str, Array]], dict[str, Any]]:
    """((loss, what the log shows), the loss's gradient in the parameters) of the global batch.

    With config.micro_batch_size the towers see so many clips at a time: all are encoded and nothing but their sequences
    kept, the loss of the whole batch gives the sequences' gradient, and each micro-batch is encoded again to carry it
    to the parameters (GradCache, Gao et al. 2021). The same gradient, with the towers' memory that of a micro-batch.
    """
    # A copy a device: gradients are then added up over devices once, not wherever a parameter is used.
    towers = parallel.varying(parameters["towers"], axis_name)
    log_temperatures = parameters["log_temperature"]
    if not config.micro_batch_size:

        def loss(towers, log_temperatures):
            return contrast(config, log_temperatures, encode(config, towers, batch, keys), axis_name)

        value, gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(towers, log_temperatures)
    else:
        micro_batches = _split((batch, keys), config.micro_batch_size // parallel.size(axis_name))

        def sequences(towers, micro_batch):
            return {name: frames for name, (frames, _) in encode(config, towers, *micro_batch).items()}

        def loss(sequences, log_temperatures):
            encoded = {name: (frames, batch[f"{name}_mask"]) for name, frames in sequences.items()}
            return contrast(config, log_temperatures, encoded, axis_name)

        def carry_back(total, inputs):
            micro_batch, cotangents = inputs
            _, vjp = jax.vjp(lambda towers: sequences(towers, micro_batch), towers)
            return jax.tree.map(jnp.add, total, vjp(cotangents)[0]), None

        encoded = jax.lax.map(lambda micro_batch: sequences(towers, micro_batch), micro_batches)
        whole = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), encoded)
        value, (cotangents, of_temperatures) = jax.value_and_grad(loss, (0, 1), has_aux=True)(whole, log_temperatures)
        cotangents = jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), cotangents, encoded)
        of_towers, _ = jax.lax.scan(carry_back, jax.tree.map(jnp.zeros_like, towers), (micro_batches, cotangents))
        gradients = of_towers, of_temperatures
    return value, {"towers": parallel.total(gradients[0], axis_name), "log_temperature": gradients[1]}


def train_step(
    config: Any, state: TrainState, batch: Batch, axis_name: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One update. Where loss or gradient is not finite the parameters and the optimiser stay as they were."""
    own = len(batch[sorted(config.model)[0]])
    step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    positions = parallel.index(axis_name) * own + jnp.arange(own)
    keys = jax.vmap(lambda position: jax.random.fold_in(step_key, position))(positions)
    (value, metrics), gradients = gradient(config, state.parameters, batch, keys, axis_name)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(norm) & jnp.isfinite(value)

    # cond, not a product with zero: 0 * NaN is NaN.
    parameters, optimizer_state = jax.lax.cond(
        finite, partial(update, config), lambda *kept: kept[:2], state.parameters, state.optimizer_state, gradients
    )
    skipped = jnp.where(finite, 0, state.skipped + 1)
    chance = math.log(own * parallel.size(axis_name))  # the loss where all similarities are equal
    metrics = {"loss": value, "loss_over_chance": value / chance, "grad_norm": norm, **metrics}
    metrics["learning_rate"] = learning_rate(config)(state.step)
    return TrainState(state.step + 1, parameters, optimizer_state, skipped), metrics


def update(
    config: Any, parameters: dict[str, Any], optimizer_state: Any, gradients: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Parameters and optimiser state after one update; temperatures stay in their range."""
    updates, optimizer_state = make_optimizer(config).update(gradients, optimizer_state, parameters)
    parameters = optax.apply_updates(parameters, updates)
    low, high = (jnp.log(jnp.float32(bound)) for bound in TEMPERATURE_RANGE)
    clipped = jax.tree.map(lambda value: jnp.clip(value, low, high), parameters["log_temperature"])
    return {**parameters, "log_temperature": clipped}, optimizer_state


def make_step(config: Any, mesh: Mesh) -> Callable:
    """train_step as one compiled function (state, global batch) on all devices of the mesh; the state is consumed."""
    return jax.jit(parallel.on_every_device(partial(train_step, config), mesh), donate_argnums=0)


def _decays(parameters: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", parameters)


def _split(tree: Any, size: int) -> Any:
    """(B, ...) leaves -> (B / size, size, ...)."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), tree)


def _pair_name(pair: tuple[str, str]) -> str:
    return "_".join(pair)
