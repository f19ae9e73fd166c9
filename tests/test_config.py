"""Every point that the paper leaves open is a config value: changed alone, it moves a tower's output or the loss.

Three sections are covered key by key, so that a key that nothing reads fails here.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from scav_jax import distances, losses
from scav_jax.models import encoder
from scav_jax.shapes import prefix_mask

# key -> another value than the default's
TOWER_SHAPES = dict(
    feature_width=7,
    width=24,
    mlp_width=9,
    mlp_hidden_layers=2,
    num_layers=2,
    ffn_width=9,
    output_norm=False,
    positions="rotary",
    position_buckets=16,
)
TOWER_VALUES = dict(
    num_heads=2, norm="post", activation="relu", max_distance_s=1.0, rate_hz=1.0, compute_dtype="bfloat16"
)
TOWER_OF_TRAINING = {"dropout"}
TOWER_WITHOUT_EFFECT = {"scan_layers", "remat"}

DISTANCE_VALUES = [
    *(("euclidean", key, value) for key, value in (("resample", "y_to_x"), ("resample", "9"), ("squared", False))),
    ("dtw", "gamma", 0.01),
    ("dtw", "cost", "cosine"),
    ("dtw", "normalize", False),
    ("dtw", "debiased", True),
    ("wasserstein", "epsilon", 0.5),
    ("wasserstein", "num_iterations", 2),
    ("wasserstein", "position_weight", 0.0),
    ("wasserstein", "debiased", True),
    *((name, "unit_norm", False) for name in ("euclidean", "dtw", "wasserstein")),
]
DISTANCE_WITHOUT_EFFECT = {"tile_size", "precision", "implementation", "solver"}  # on values, beyond rounding

RECIPE_VALUES = dict(temperature=0.5, normalization="minmax")
RECIPE_OF_TRAINING = {"learning_rate", "temperature_learned"}  # change the steps, not the loss


def tower_section(**changes):
    config = base.tower(num_layers=1, feature_width=6, rate_hz=4.0)
    config.update(dict(width=16, mlp_width=12, num_heads=4, ffn_width=20, position_buckets=8, scan_layers=False))
    config.update(changes)
    return config


def tower_tree(config):
    return jax.eval_shape(lambda: encoder.init(jax.random.key(0), config))


def tower_output(keys=None, **changes):
    """Output for parameters that depend on their names and shapes alone: equal trees mean equal parameters."""
    config = tower_section(**changes)

    def draw(path, leaf):
        seed = zlib.crc32(jax.tree_util.keystr(path).encode())
        return jnp.asarray(np.random.default_rng(seed).normal(size=leaf.shape), leaf.dtype)

    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, config.feature_width)), jnp.float32)
    return jax.jit(lambda p, x, k: encoder.apply(p, config, x, None, rng=k))(
        jax.tree.map_with_path(draw, tower_tree(config)), features, keys
    )


def contrastive(name, key=None, value=None, **recipe_changes):
    """The loss of four ragged pairs as the config has it, with one key changed; the two modalities are correlated."""
    config = base.get_config()
    if key is not None:
        with config.distance.unlocked():
            config.distance[key] = value
    recipe = config.recipe[name]
    recipe.update(recipe_changes)
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(4, 8, 5))
    y = np.repeat(x, 2, axis=1)[:, 1:13] + 2 * numbers.normal(size=(4, 12, 5))
    masks = (prefix_mask(jnp.array(lengths), n) for lengths, n in (([8, 3, 5, 6], 8), ([12, 7, 4, 9], 12)))
    inputs = (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), *masks)
    options = distances.options(name, {**config.distance, "name": name})

    @jax.jit
    def loss(*inputs):
        compared = distances.pairwise(name, *inputs, **options)
        return losses.contrastive_loss(compared, recipe.temperature, normalization=recipe.normalization)

    return float(loss(*inputs))


@pytest.fixture(scope="module")
def default_output():
    return tower_output()


@pytest.fixture(scope="module")
def default_loss():
    names = ("cosine", "euclidean", "dtw", "wasserstein")
    return {name: contrastive(name) for name in names}


def test_every_key_is_covered():
    config = base.get_config()
    assert (
        set(config.model.visual) == TOWER_SHAPES.keys() | TOWER_VALUES.keys() | TOWER_OF_TRAINING | TOWER_WITHOUT_EFFECT
    )
    assert set(config.distance) == {key for _, key, _ in DISTANCE_VALUES} | DISTANCE_WITHOUT_EFFECT | {"name"}
    for recipe in config.recipe.values():
        assert set(recipe) == RECIPE_VALUES.keys() | RECIPE_OF_TRAINING


@pytest.mark.parametrize(("key", "value"), TOWER_SHAPES.items())
def test_tower_key_changes_the_parameters(key, value):
    assert value != tower_section()[key]
    assert tower_tree(tower_section(**{key: value})) != tower_tree(tower_section())


@pytest.mark.parametrize(("key", "value"), TOWER_VALUES.items())
def test_tower_key_changes_the_output(default_output, key, value):
    assert value != tower_section()[key]
    assert np.abs(tower_output(**{key: value}) - default_output).max() > 1e-2


def test_dropout_changes_the_output_of_training():
    keys = jax.random.split(jax.random.key(0), 2)
    assert np.abs(tower_output(keys, dropout=0.5) - tower_output(keys)).max() > 1e-2


def test_every_kind_of_position_has_its_own_output(default_output):
    outputs = [default_output, *(tower_output(positions=kind) for kind in ("shaw", "rotary", "none"))]
    for first in range(4):
        for second in range(first):
            assert np.abs(outputs[first] - outputs[second]).max() > 1e-2


@pytest.mark.parametrize(("name", "key", "value"), DISTANCE_VALUES)
def test_distance_key_changes_the_loss(default_loss, name, key, value):
    assert abs(contrastive(name, key, value) - default_loss[name]) > 1e-4


def test_every_distance_has_its_own_loss(default_loss):
    assert np.diff(sorted(default_loss.values())).min() > 1e-3


@pytest.mark.parametrize(("key", "value"), RECIPE_VALUES.items())
@pytest.mark.parametrize("name", ["cosine", "euclidean"])
def test_recipe_key_changes_the_loss(default_loss, name, key, value):
    assert abs(contrastive(name, **{key: value}) - default_loss[name]) > 1e-3


def test_every_normalization_has_its_own_loss():
    names = ("none", "zscore", "mean", "minmax")
    found = sorted(contrastive("euclidean", normalization=name, temperature=0.3) for name in names)
    assert np.diff(found).min() > 1e-2


def test_defaults_of_the_open_points():
    """The table of docs/paper.md."""
    config = base.get_config()
    assert {name: recipe.normalization for name, recipe in config.recipe.items() if name != "cosine"} == dict(
        euclidean="zscore", dtw="zscore", wasserstein="zscore"
    )
    assert (config.recipe.cosine.temperature, config.recipe.euclidean.temperature) == (0.07, 1.0)
    assert config.recipe.euclidean.temperature_learned
    chosen = dict(unit_norm=True, resample="x_to_y", squared=True, gamma=0.1, cost="sqeuclidean", normalize=True)
    chosen |= dict(epsilon=0.1, num_iterations=100, position_weight=1.0, debiased=False)
    assert {key: config.distance[key] for key in chosen} == chosen
    assert (config.model.visual.num_layers, config.model.audio.num_layers, config.batch_size) == (8, 2, 32)
    for tower in (config.model.visual, config.model.audio):
        chosen = dict(width=512, num_heads=8, ffn_width=2048, norm="pre", activation="gelu", dropout=0.1)
        chosen |= dict(output_norm=True, mlp_hidden_layers=1, positions="bias")
        assert {key: tower[key] for key in chosen} == chosen
