"""The checks of inputs and options that all distances share."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from configs import base
from scav_jax import distances


@pytest.mark.parametrize(
    ("message", "name", "changes"),
    [
        ("distance: expected one of", "manhattan", {}),
        ("unknown option 'gamma'", "euclidean", {"gamma": 1.0}),
        ("unknown option 'resmple'", "euclidean", {"resmple": 3}),
        ("resample: expected", "euclidean", {"resample": "both"}),
        ("resample: expected", "euclidean", {"resample": 0}),
        ("squared: expected", "euclidean", {"squared": 1}),
        ("gamma: expected", "dtw", {"gamma": -1.0}),
        ("cost: expected", "dtw", {"cost": "l1"}),
        ("epsilon: expected", "wasserstein", {"epsilon": 0.0}),
        ("num_iterations: expected", "wasserstein", {"num_iterations": 0}),
        ("solver: expected", "wasserstein", {"solver": "pot"}),
        ("precision: expected", "cosine", {"precision": "float16"}),
        ("implementation: expected", "cosine", {"implementation": "slow"}),
        ("tile_size: expected", "cosine", {"tile_size": 0}),
        ("one width", "cosine", {"y": jnp.ones((3, 6, 2))}),
        ("x: expected a floating", "cosine", {"x": jnp.ones((2, 0, 3))}),
        ("x_mask: expected shape", "dtw", {"x_mask": jnp.ones((2, 3), bool)}),
        ("y_mask: expected a prefix", "dtw", {"y_mask": jnp.ones((3, 6), bool).at[1, 0].set(False)}),
        ("y_mask: expected bool", "dtw", {"y_mask": np.ones((3, 6), np.int32)}),
    ],
)
def test_bad_input_is_named(message, name, changes, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without shape types
    arguments = {"x": jnp.ones((2, 4, 3)), "y": jnp.ones((3, 6, 3))} | changes
    with pytest.raises(ValueError, match=message):
        distances.pairwise(name, **arguments)


def test_options_takes_a_config_section():
    section = base.get_config().distance
    assert distances.options("cosine", section) == {
        "tile_size": None,
        "unit_norm": True,
        "precision": "float32",
        "implementation": "fast",
    }
    for name in distances.DISTANCES:
        assert set(distances.options(name, section)) == {"tile_size", *distances.option_names(name)}
    section.resample, section.tile_size = "32", 8
    chosen = distances.options("euclidean", section)
    assert (chosen["resample"], chosen["tile_size"]) == (32, 8)
    with pytest.raises(ValueError, match="gama"):
        distances.options("dtw", {"name": "dtw", "gama": 1.0})
    with pytest.raises(ValueError, match="gamma: expected"):
        distances.options("dtw", {"gamma": -1.0})


def test_can_be_negative():
    assert distances.can_be_negative("dtw", gamma=0.1)
    assert not distances.can_be_negative("dtw", gamma=0)
    assert not distances.can_be_negative("dtw", debiased=True)
    assert not any(distances.can_be_negative(name) for name in ("euclidean", "wasserstein", "cosine"))
