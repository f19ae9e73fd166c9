"""Training as pure functions: the state, how it begins, the loss, one step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from scav_jax import distances
from scav_jax.config import TEMPERATURE_RANGE, recipe, trained_with
from scav_jax.losses import contrastive_loss
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
    # One step late, or the first update would be multiplied by zero.
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, config.steps, end)
    return lambda step: schedule(step + 1)


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
    config: Any, parameters: dict[str, Any], batch: Batch, keys: Key[Array, " B"] | None = None
) -> dict[str, tuple[Sequences, Masks | None]]:
    """Each modality's features -> (sequences (B, length, d), mask); `keys` (B,) one a clip for dropout, or None."""
    encoded = {}
    for index, name in enumerate(sorted(config.model)):
        mask = batch[f"{name}_mask"]
        rng = None if keys is None else jax.vmap(lambda key, index=index: jax.random.fold_in(key, index))(keys)
        encoded[name] = (
            encoder.apply(parameters["towers"][name], config.model[name], batch[name], mask, rng=rng),
            mask,
        )
    return encoded


def pair_distances(config: Any, name: str, x: tuple, y: tuple) -> Float[Array, "Bx By"]:
    """Distances of encoded x to encoded y by one distance, with its options from config.distance."""
    return distances.pairwise(name, x[0], y[0], x[1], y[1], **distances.options(name, config.distance))


def loss(
    config: Any, parameters: dict[str, Any], batch: Batch, keys: Key[Array, " B"] | None = None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean contrastive loss over config.pairs, and what the log shows beside it."""
    encoded = encode(config, parameters, batch, keys)
    losses, metrics = [], {}
    for pair in config.pairs:
        x, y = (encoded[name] for name in pair)
        matrix = pair_distances(config, trained_with(config), x, y)
        log_temperature = parameters["log_temperature"][_pair_name(pair)]
        if not recipe(config).temperature_learned:
            log_temperature = jax.lax.stop_gradient(log_temperature)
        temperature = jnp.exp(log_temperature)
        losses.append(contrastive_loss(matrix, temperature, normalization=recipe(config).normalization))
        metrics["temperature"] = temperature
        metrics["positive_distance"] = jnp.mean(jnp.diagonal(matrix))
        metrics["mean_distance"] = jnp.mean(matrix)
    return jnp.mean(jnp.stack(losses)), metrics


def train_step(config: Any, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """One update. Where loss or gradient is not finite the parameters and the optimiser stay as they were."""
    first = batch[sorted(config.model)[0]]
    step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    keys = jax.vmap(lambda position: jax.random.fold_in(step_key, position))(jnp.arange(len(first)))
    grad = jax.value_and_grad(lambda parameters: loss(config, parameters, batch, keys), has_aux=True)
    (value, metrics), gradient = grad(state.parameters)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(value)

    def update(parameters, optimizer_state):
        updates, optimizer_state = make_optimizer(config).update(gradient, optimizer_state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        low, high = (jnp.log(jnp.float32(bound)) for bound in TEMPERATURE_RANGE)
        clipped = jax.tree.map(lambda value: jnp.clip(value, low, high), parameters["log_temperature"])
        return {**parameters, "log_temperature": clipped}, optimizer_state

    # cond, not a product with zero: 0 * NaN is NaN.
    parameters, optimizer_state = jax.lax.cond(
        finite, update, lambda *unchanged: unchanged, state.parameters, state.optimizer_state
    )
    skipped = jnp.where(finite, 0, state.skipped + 1)
    metrics = {"loss": value, "grad_norm": norm, "learning_rate": learning_rate(config)(state.step), **metrics}
    return TrainState(state.step + 1, parameters, optimizer_state, skipped), metrics


def _decays(parameters: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", parameters)


def _pair_name(pair: tuple[str, str]) -> str:
    return "_".join(pair)
