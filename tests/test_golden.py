"""The frozen networks against vectors that their PyTorch references gave: tests/golden/make.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import relative_error
from golden.sizes import BEATS, RESNET, VIT

from scav_jax.models import beats, clip
from scav_jax.models.filter_bank import filter_bank
from scav_jax.models.weights import Weights

FOLDER = Path(__file__).parent / "golden"


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    prefix = "weights/"
    published = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    return Weights(FOLDER / f"{name}.npz", "", published), arrays


@pytest.mark.parametrize("output", ["projection", "class", "patches", "map", "attnpool"])
def test_clip(output):
    name, config = ("clip_vit", VIT) if output in clip.outputs("clip-vit-b32") else ("clip_resnet", RESNET)
    weights, arrays = load(name)
    parameters = clip.convert(weights, config, output)
    ours = jax.jit(lambda pictures: clip.apply(parameters, config, output, pictures))(arrays["pictures"])
    assert relative_error(ours, arrays[output]) < 2e-5


def test_beats_and_its_filter_bank():
    weights, arrays = load("beats")
    waveforms, bank = jnp.asarray(arrays["waveforms"]), jnp.asarray(arrays["bank"])
    assert np.abs(filter_bank(waveforms * 2.0**15) - bank).max() < 2e-3
    parameters, length = beats.convert(weights, BEATS), jnp.full(2, 16_000)
    from_sound = jax.jit(lambda *inputs: beats.apply(parameters, BEATS, *inputs))
    assert relative_error(from_sound(waveforms, length), arrays["steps"]) < 1e-4
    from_bank = jax.jit(lambda *inputs: beats.encode_bank(parameters, BEATS, *inputs))
    assert relative_error(from_bank(bank, beats.num_steps(length)), arrays["steps"]) < 2e-5
