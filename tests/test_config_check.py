"""Configs before any work: what cannot be run is refused by its key, and what differs is named."""

import pytest

from configs import base
from scav_jax.config import ConfigError, check, differences, every_steps, unknown_key


def changed(**changes):
    """configs/base.py with `changes` by dotted key, "__" for the dot."""
    config = base.get_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method="foo"), "method: expected one of cav, scav, got 'foo'"),
        (dict(distance__name="foo"), "distance.name: expected one of .*euclidean"),
        (dict(distance__resample="foo"), "distance.resample"),
        (dict(steps=1), "steps: expected at least 2, got 1"),
        (dict(checkpoint__keep=0), "checkpoint.keep: expected at least 1, got 0"),
        (dict(eval__hybrid_k=(10, 0)), "eval.hybrid_k: expected whole numbers above 0"),
        (dict(eval__every_fraction=0.0), "eval.every_fraction: expected a fraction of the steps"),
        (dict(recipe__euclidean__temperature=0.0), "recipe.euclidean.temperature: expected 0.01 to 10"),
        (dict(recipe__euclidean__normalization="foo"), "recipe.euclidean.normalization: expected one of"),
        (dict(pairs=(("visual", "text"),)), "pairs: expected"),
        (dict(pairs=(("audio", "visual"),)), "pairs: expected"),
        (dict(pairs=()), "pairs: expected"),
        (dict(distance__tile_size=-1), "distance.tile_size: expected at least 0, got -1"),
        (dict(model__audio__width=16), "model: expected towers of one width"),
        (dict(model__audio__num_heads=7), "model.audio.width: expected a multiple of num_heads = 7"),
        (dict(optimizer__b1=2.0), "optimizer.b1: expected 0 <= b1 < 1, got 2.0"),
        (dict(optimizer__clip_norm=0.0), "optimizer.clip_norm: expected a positive number"),
    ],
)
def test_a_config_that_cannot_run_is_refused_by_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(changed(**changes))


def test_default_config_is_accepted_by_every_distance():
    for name in ("euclidean", "dtw", "wasserstein"):
        check(changed(distance__name=name))


def test_fractions_become_at_least_one_step():
    config = changed(steps=2)
    assert [every_steps(config, fraction) for fraction in (0.01, 0.5, 1.0)] == [1, 1, 2]


def test_differences_name_every_changed_leaf():
    assert differences(changed(), changed()) == []
    assert differences(changed(), changed(steps=7, model__audio__dropout=0.5)) == [
        "model.audio.dropout: 0.1 -> 0.5",
        "steps: 20000 -> 7",
    ]


def test_unknown_keys_get_the_nearest_known_one():
    config = base.get_config()
    assert unknown_key("optimizer.b1", config) == ""
    assert unknown_key("lerning_rate", config).startswith(
        "lerning_rate: unknown key; did you mean recipe.cosine.learning_rate"
    )
    assert unknown_key("distanse.name", config) == "distanse.name: unknown key; did you mean distance.name?"
    assert unknown_key("qqqqqqqqqq", config) == "qqqqqqqqqq: unknown key"
