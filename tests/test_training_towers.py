"""Training steps through the real towers: every parameter learns, one program serves, the loss falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from scav_jax import training

CLIPS = 6


@pytest.fixture(scope="module")
def config():
    found = base.get_config()
    found.steps = 20
    for tower, width in ((found.model.visual, 5), (found.model.audio, 4)):
        tower.update(feature_width=width, width=8, mlp_width=8, num_heads=2, num_layers=1, ffn_width=8)
        tower.update(scan_layers=False, position_buckets=4, dropout=0.0)
    found.recipe.euclidean.learning_rate = 1e-2
    return found


def batch(seed=0):
    """Ragged clips whose sound follows their picture."""
    rng = np.random.default_rng(seed)
    visual = rng.normal(size=(CLIPS, 7, 5))
    audio = np.repeat(visual, 2, axis=1)[:, :10, :4] + 0.1 * rng.normal(size=(CLIPS, 10, 4))
    lengths = rng.integers(3, 7, (CLIPS, 1))
    masks = {"visual_mask": np.arange(7) < lengths, "audio_mask": np.arange(10) < lengths + 3}
    features = {"visual": visual.astype(np.float32), "audio": audio.astype(np.float32)}
    return jax.tree.map(jnp.asarray, features | masks)


def test_the_gradient_reaches_every_parameter(config):
    state = training.init(config)
    _, gradient = jax.jit(lambda parameters: training.gradient(config, parameters, batch(), None))(state.parameters)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        if "query_key_value" in name and "bias" in name:
            query, key, value = np.split(np.abs(leaf), 3, axis=-1)
            # A key bias moves all of a query's scores alike: softmax does not see it.
            assert key.max() < 1e-6 < min(query.max(), value.max())
        else:
            assert np.abs(leaf).max() > 1e-6, name


def test_the_loss_falls_and_one_program_serves_every_step(config):
    traces = []

    def step(state, batch):
        traces.append(None)
        return training.train_step(config, state, batch)

    compiled = jax.jit(step)
    state = jax.jit(lambda: training.init(config))()
    losses = []
    for seed in (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2):
        state, metrics = compiled(state, batch(seed))
        losses.append(float(metrics["loss"]))
    assert len(traces) == 1
    assert int(state.step) == len(losses)
    assert losses[11] < 0.8 * losses[0]
