"""One training step: its schedule, its gradients, what it refuses to learn from, and that every key matters."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from scav_jax import training

CLIPS = 6


@pytest.fixture(autouse=True)
def linear_towers(monkeypatch):
    """Towers of one matrix, and noise where they would drop units: what is tested here is around them."""

    def init(key, config):
        return {
            "kernel": jax.random.normal(key, (config.feature_width, config.width)),
            "bias": jnp.zeros((1, 1, config.width)),
        }

    def apply(parameters, config, features, mask, *, rng=None):
        sequences = features @ parameters["kernel"] + parameters["bias"]
        if rng is None:
            return sequences
        noise = jax.vmap(lambda key: jax.random.normal(key, sequences.shape[1:]))(rng)
        return sequences + config.dropout * noise

    monkeypatch.setattr(training, "encoder", SimpleNamespace(init=init, apply=apply))


def small(**changes):
    """configs/base.py with small towers; `changes` by dotted key, "__" for the dot."""
    config = base.get_config()
    config.steps = 20
    for tower, width in ((config.model.visual, 5), (config.model.audio, 4)):
        tower.update(feature_width=width, width=8, dropout=0.0)
    for section in config.recipe.values():
        section.learning_rate = 1e-2
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def batch(seed=0):
    """Full clips whose sound follows their picture."""
    rng = np.random.default_rng(seed)
    visual = rng.normal(size=(CLIPS, 7, 5))
    audio = np.repeat(visual, 2, axis=1)[:, :10, :4] + 0.1 * rng.normal(size=(CLIPS, 10, 4))
    features = {"visual": jnp.asarray(visual, jnp.float32), "audio": jnp.asarray(audio, jnp.float32)}
    return {**features, "visual_mask": None, "audio_mask": None}


def run(config, steps=1, data=None, state=None):
    """The state after `steps` steps on one batch, and the metrics of each."""
    step = jax.jit(lambda state, batch: training.train_step(config, state, batch))
    state = training.init(config) if state is None else state
    rows = []
    for _ in range(steps):
        state, metrics = step(state, batch() if data is None else data)
        rows.append({key: float(value) for key, value in metrics.items()})
    return state, rows


def changed(one, other):
    """Paths of the parameters that differ."""
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
    return {jax.tree_util.keystr(path) for (path, leaf), twin in pairs if not np.array_equal(leaf, twin)}


@cache
def two_steps():
    return run(small(), 2)


@pytest.mark.parametrize("steps", [2, 3, 20, 1000])
def test_schedule_warms_up_to_the_peak_and_ends_at_its_fraction(steps):
    config = small(steps=steps, optimizer__warmup_fraction=0.1, optimizer__end_fraction=0.02)
    rates = np.array([training.learning_rate(config)(step) for step in range(steps)])
    warmup = max(1, round(0.1 * steps))
    np.testing.assert_allclose(rates[warmup - 1], 1e-2, rtol=1e-5)
    np.testing.assert_allclose(rates[-1], 2e-4, rtol=1e-5)
    np.testing.assert_allclose(rates[:warmup], 1e-2 * np.arange(1, warmup + 1) / warmup, rtol=1e-5)
    assert (np.diff(rates[warmup - 1 :]) < 0).all()
    assert rates.min() > 0


def test_loss_falls_and_metrics_are_finite():
    _, rows = run(small(), 15)
    assert rows[-1]["loss"] < 0.85 * rows[0]["loss"]
    assert rows[0].keys() >= {"loss", "grad_norm", "learning_rate", "temperature", "positive_distance", "mean_distance"}
    assert np.isfinite([list(row.values()) for row in rows]).all()
    first, last = (row["mean_distance"] - row["positive_distance"] for row in (rows[0], rows[-1]))
    assert last > first + 0.1


def test_temperature_is_learned_fixed_and_clipped():
    def temperatures(**changes):
        return [row["temperature"] for row in run(small(**changes), 3)[1]]

    assert len(set(temperatures())) == 3
    fixed = temperatures(recipe__euclidean__temperature_learned=False)
    np.testing.assert_allclose(fixed, 1.0)
    low, high = training.TEMPERATURE_RANGE
    # Steps this large leave the range unless they are clipped.
    found = temperatures(recipe__euclidean__learning_rate=30.0)
    assert min(found[1:]) >= low * 0.999
    assert max(found[1:]) <= high * 1.001
    assert {round(value, 4) for value in found[1:]} & {low, high}


def test_only_kernels_decay():
    without, _ = run(small(optimizer__weight_decay=0.0), 1)
    decayed, _ = run(small(optimizer__weight_decay=5.0), 1)
    paths = changed(without.parameters, decayed.parameters)
    assert paths == {path for path in all_paths(without.parameters) if path.endswith("['kernel']")}


def all_paths(tree):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)}


def test_dropout_depends_on_seed_step_and_position():
    config = small(model__visual__dropout=0.5, model__audio__dropout=0.5)
    state = training.init(config)
    step = jax.jit(lambda state, batch: training.train_step(config, state, batch)[1]["positive_distance"])
    value = float(step(state, batch()))
    assert float(step(state, batch())) == value
    assert float(step(state._replace(step=state.step + 1), batch())) != value
    other = small(seed=1, model__visual__dropout=0.5, model__audio__dropout=0.5)
    reseeded = jax.jit(lambda state, batch: training.train_step(other, state, batch)[1]["positive_distance"])
    assert float(reseeded(state, batch())) != value
    # The same clip twice: its two places in the batch drop other units.
    twice = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], CLIPS, axis=0), batch())
    keys = jax.random.split(jax.random.key(0), CLIPS)
    encoded, _ = training.encode(config, state.parameters["towers"], twice, keys)["visual"]
    same, _ = training.encode(config, state.parameters["towers"], twice, jnp.repeat(keys[:1], CLIPS))["visual"]
    assert not np.allclose(encoded[0], encoded[1])
    np.testing.assert_array_equal(same[0], same[1])


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counts():
    config = small()
    before, _ = run(config)
    poisoned = batch()
    poisoned["audio"] = poisoned["audio"].at[2, 0, 1].set(np.nan)
    after, (row,) = run(config, data=poisoned, state=before)
    assert np.isnan(row["loss"])
    assert not changed((before.parameters, before.optimizer_state), (after.parameters, after.optimizer_state))
    assert (int(after.step), int(after.skipped)) == (2, 1)
    after, _ = run(config, data=poisoned, state=after)
    assert (int(after.step), int(after.skipped)) == (3, 2)
    healed, (row,) = run(config, state=after)
    assert (int(healed.step), int(healed.skipped)) == (4, 0)
    assert np.isfinite(row["loss"])
    assert changed(after.parameters, healed.parameters)


def test_cav_trains_by_the_cosine_of_means_and_scav_by_the_chosen_distance():
    losses = {}
    for method, name in (("cav", "euclidean"), ("cav", "dtw"), ("scav", "euclidean"), ("scav", "dtw")):
        recipes = {f"recipe__{key}__normalization": "zscore" for key in ("cosine", "euclidean", "dtw")}
        recipes |= {f"recipe__{key}__temperature": 1.0 for key in ("cosine", "euclidean", "dtw")}
        _, (row,) = run(small(method=method, distance__name=name, **recipes))
        losses[method, name] = row["loss"]
    assert losses["cav", "euclidean"] == losses["cav", "dtw"]
    assert len(set(losses.values())) == 3


def test_seed_decides_the_first_parameters():
    first, same, other = (training.init(small(seed=seed)).parameters for seed in (3, 3, 4))
    assert not changed(first, same)
    drawn = {path for path in all_paths(first) if path.endswith("['kernel']")}
    assert drawn <= changed(first, other)


STEP_KEYS = {
    "optimizer__warmup_fraction": 0.5,
    "optimizer__end_fraction": 0.5,
    "optimizer__weight_decay": 5.0,
    "optimizer__b1": 0.5,
    "optimizer__b2": 0.5,
    "optimizer__clip_norm": 1e-6,
    "recipe__euclidean__learning_rate": 1e-3,
    "recipe__euclidean__temperature": 0.5,
    "recipe__euclidean__temperature_learned": False,
    "recipe__euclidean__normalization": "mean",
    "model__audio__dropout": 0.5,
    "seed": 7,
}


def test_every_key_of_optimizer_and_recipe_is_covered():
    config = base.get_config()
    for prefix, section in (("optimizer__", config.optimizer), ("recipe__euclidean__", config.recipe.euclidean)):
        assert {key.removeprefix(prefix) for key in STEP_KEYS if key.startswith(prefix)} == set(section)


@pytest.mark.parametrize(("key", "value"), STEP_KEYS.items())
def test_every_key_changes_the_second_step(key, value):
    state, _ = two_steps()
    other, _ = run(small(**{key: value}), 2)
    assert changed(state.parameters, other.parameters)
