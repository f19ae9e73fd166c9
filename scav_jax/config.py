"""Configs after they are read: checked as a whole before any work, kept with the run as JSON, compared on resume."""

import difflib
import json
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from scav_jax import distances, files
from scav_jax.losses import check_normalization
from scav_jax.models.encoder import check_config

METHODS = ("cav", "scav")
PAIRS = (("visual", "audio"),)
# Our choice, after CLIP: a learned temperature stays where a softmax over distances means something.
TEMPERATURE_RANGE = (0.01, 10.0)
# Where this machine keeps copies: nothing of the run itself.
PLACES = ("data.stage", "data.resident_gib")


class ConfigError(ValueError):
    """A config that cannot be run: names the key, what was expected and what came."""


def trained_with(config: Any) -> str:
    """The distance that the loss contrasts: the cosine of means for CAV, config.distance for SCAV."""
    return "cosine" if config.method == "cav" else config.distance.name


def recipe(config: Any) -> Any:
    """The section of config.recipe for the distance trained with."""
    return config.recipe[trained_with(config)]


def check(config: Any) -> None:
    """Raises ConfigError at the first key whose value cannot be run; needs neither data nor device."""
    _check_sizes(config)
    _check_loss(config)
    _check_towers(config)
    for key in ("b1", "b2"):
        if not 0 <= config.optimizer[key] < 1:
            raise ConfigError(f"optimizer.{key}: expected 0 <= {key} < 1, got {config.optimizer[key]}")
    if not config.optimizer.clip_norm > 0:
        raise ConfigError(f"optimizer.clip_norm: expected a positive number, got {config.optimizer.clip_norm}")
    for key in ("optimizer.warmup_fraction", "eval.every_fraction", "checkpoint.every_fraction"):
        if not 0 < (fraction := _value(config, key)) <= 1:
            raise ConfigError(f"{key}: expected a fraction of the steps, 0 < fraction <= 1, got {fraction}")


def _check_sizes(config: Any) -> None:
    counts = {"steps": 2, "batch_size": 2, "log_every_steps": 1, "eval.batch_size": 1, "checkpoint.keep": 1}
    counts |= {"distance.tile_size": 0, "data.slices": 1, "data.resident_gib": 0}
    for key, minimum in counts.items():
        if (value := _value(config, key)) < minimum:
            raise ConfigError(f"{key}: expected at least {minimum}, got {value}")
    micro = config.micro_batch_size
    if micro < 0 or (micro and config.batch_size % micro):
        raise ConfigError(f"micro_batch_size: expected 0 or a divisor of batch_size = {config.batch_size}, got {micro}")
    if config.batch_size % (slices := config.data.slices):
        raise ConfigError(f"data.slices: expected a divisor of batch_size = {config.batch_size}, got {slices}")
    if not all(isinstance(k, int) and k > 0 for k in config.eval.hybrid_k):
        raise ConfigError(f"eval.hybrid_k: expected whole numbers above 0, got {config.eval.hybrid_k}")
    if "://" in config.data.stage:
        raise ConfigError(f"data.stage: expected a local folder, got {config.data.stage}")


def _check_loss(config: Any) -> None:
    """Method, distance, and the recipe of each distance."""
    _check_choice("method", config.method, METHODS)
    _check_choice("distance.name", config.distance.name, tuple(distances.DISTANCES))
    try:
        options = distances.definition(config.distance.name, config.distance)
    except ValueError as error:
        raise ConfigError(f"distance.{error}") from error
    for name in distances.DISTANCES:
        section, (low, high) = config.recipe[name], TEMPERATURE_RANGE
        if not section.learning_rate > 0:
            raise ConfigError(f"recipe.{name}.learning_rate: expected a positive number, got {section.learning_rate}")
        if not low <= section.temperature <= high:
            raise ConfigError(f"recipe.{name}.temperature: expected {low} to {high}, got {section.temperature}")
    trained = trained_with(config)
    try:
        check_normalization(recipe(config).normalization, trained, **(options if config.method == "scav" else {}))
    except ValueError as error:
        raise ConfigError(f"recipe.{trained}.{error}") from error


def _check_towers(config: Any) -> None:
    if tuple(map(tuple, config.pairs)) != PAIRS or not {*PAIRS[0]} <= set(config.model):
        raise ConfigError(f"pairs: expected {PAIRS}, the one pair there is today, got {config.pairs}")
    for name, tower in config.model.items():
        try:
            check_config(tower)
        except ValueError as error:
            raise ConfigError(f"model.{name}.{error}") from error
    widths = {name: tower.width for name, tower in config.model.items()}
    if len(set(widths.values())) > 1:
        raise ConfigError(f"model: expected towers of one width, got {widths}")


def check_devices(config: Any, count: int) -> None:
    """Raises ConfigError where the batch cannot be spread over so many devices."""
    for key in ("batch_size", "micro_batch_size"):
        if config[key] % count:
            raise ConfigError(f"{key}: expected a multiple of {count}, the number of devices, got {config[key]}")
    if (slices := config.data.slices) % count and count % slices:
        raise ConfigError(f"data.slices: expected a divisor or a multiple of the {count} devices, got {slices}")
    if (
        count > 1
        and config.method == "scav"
        and (config.distance.name, config.distance.solver) == ("wasserstein", "ott")
    ):
        raise ConfigError(f"distance.solver: expected own, for ott runs on one device and here are {count}")


def describe(config: Any) -> str:
    """The run in half a line."""
    method = "CAV" if config.method == "cav" else f"SCAV {config.distance.name}"
    return f"{method}, {config.steps} steps of {config.batch_size} clips, seed {config.seed}"


def every_steps(config: Any, fraction: float) -> int:
    """A fraction of the run as a number of steps, at least one."""
    return max(1, round(fraction * config.steps))


def save(config: Any, path: files.AnyPath) -> None:
    """Writes the config as JSON, whole or not at all."""
    files.write_whole(path, json.dumps(config.to_dict(), indent=1) + "\n")


def load(path: files.AnyPath) -> FrozenConfigDict:
    """The config that `save` wrote, frozen."""
    return FrozenConfigDict(json.loads(path.read_text()))


def differences(kept: Any, given: Any) -> list[str]:
    """ "key: kept -> given" for every leaf in which two configs differ, but those that only this machine knows."""
    before, after = _leaves(kept), _leaves(given)
    keys = sorted({*before, *after} - {*PLACES})
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def unknown_key(key: str, config: Any) -> str:
    """The message for a dotted key that `config` does not have, with the nearest that it has; "" for one it has."""
    known = list(_leaves(config))
    if key in known:
        return ""
    tails = {leaf.rpartition(".")[2] for leaf in known}
    close = difflib.get_close_matches(key, known, n=1) if "." in key else []
    close = close or [
        leaf
        for tail in difflib.get_close_matches(key.rpartition(".")[2], tails, n=1)
        for leaf in known
        if leaf.rpartition(".")[2] == tail
    ]
    return f"{key}: unknown key" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}: expected one of {', '.join(choices)}, got {value!r}")


def _leaves(section: Any, prefix: str = "") -> dict[str, str]:
    """Every leaf by its dotted key, as JSON, so that tuples and lists compare equal."""
    if not isinstance(section, ConfigDict | FrozenConfigDict | dict):
        return {prefix.removesuffix("."): json.dumps(section)}
    return {key: leaf for name, child in section.items() for key, leaf in _leaves(child, f"{prefix}{name}.").items()}
