"""BEATs and its filter bank beside openbeats and torchaudio at full width, and its checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import relative_error

from benchmarks import references
from scav_jax.models import beats
from scav_jax.models.beats import BeatsConfig
from scav_jax.models.filter_bank import RATE_HZ, filter_bank
from scav_jax.models.weights import WeightsError

# openbeats builds and runs its modules in PyTorch's older ways
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:.*autocast.*:FutureWarning")
TWO_LAYERS = BeatsConfig(encoder_layers=2)  # at full depth: benchmarks/encoders.py
TINY = BeatsConfig(16, 2, 32, 48, 4, 24, 4, 32, 60)


@pytest.fixture(scope="module")
def reference():
    return references.beats(TWO_LAYERS)


def waveforms_of(rng, count, seconds):
    """Noise, a chirp and silence: loud, tonal and empty bands."""
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    chirp = 0.3 * np.sin(2 * np.pi * (200 + 300 * times_s) * times_s) * (times_s > seconds / 3)
    return (chirp + rng.normal(0, 0.05, (count, len(times_s)))).astype(np.float32)


def write_checkpoint(path, model, config, **extra):
    state = {**references.beats_state(model), **extra}
    torch.save({"cfg": references.beats_cfg(config), "model": state}, path)
    return path


def steps_of(tokens):
    return tokens.reshape(len(tokens), -1, beats.ROWS, tokens.shape[-1]).mean(dim=2)


def test_the_filter_bank_is_kaldis():
    rng = np.random.default_rng(0)
    for waveforms in (
        waveforms_of(rng, 2, 10.0),
        waveforms_of(rng, 1, 0.4371),
        np.zeros((1, 4000), np.float32),
        np.ones((1, 400), np.float32),
    ):
        theirs = references.kaldi_bank(torch.tensor(waveforms) * 2**15).numpy()
        ours = np.asarray(filter_bank(jnp.asarray(waveforms) * 2.0**15))
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 2e-3
        assert np.abs(ours - theirs).mean() < 2e-5


def test_the_band_between_two_bins_is_empty_as_in_kaldi(rng):
    """Networks were trained with that constant."""
    bank = filter_bank(jnp.asarray(waveforms_of(rng, 1, 1.0)) * 2.0**15)
    empty = np.flatnonzero((np.asarray(bank) == np.log(np.finfo(np.float32).eps).astype(np.float32)).all(axis=(0, 1)))
    assert empty.tolist() == [3]


def test_beats_equals_openbeats(reference, tmp_path):
    rng = np.random.default_rng(1)
    waveforms = waveforms_of(rng, 2, 10.0)
    lengths = torch.full((2,), waveforms.shape[1])
    bank = references.kaldi_bank(torch.tensor(waveforms) * 2**15)
    with torch.no_grad():
        from_sound = steps_of(reference(torch.tensor(waveforms), lengths)[0])
        from_bank = steps_of(reference(bank, torch.full((2,), bank.shape[1]), waveform_input=False)[0])
    parameters, config, _ = beats.load(write_checkpoint(tmp_path / "beats.pt", reference, TWO_LAYERS))
    assert config == TWO_LAYERS
    ours = jax.jit(lambda p, x, n: beats.apply(p, config, x, n))(parameters, waveforms, lengths.numpy())
    assert ours.shape == (2, 62, 768)  # of 10 s
    assert relative_error(ours, from_sound) < 1e-4
    steps = beats.num_steps(lengths.numpy())
    ours = jax.jit(lambda p, x, n: beats.encode_bank(p, config, x, n))(parameters, bank.numpy(), steps)
    assert relative_error(ours, from_bank) < 2e-5


def test_padding_changes_nothing(tmp_path, rng):
    parameters = beats.load(write_checkpoint(tmp_path / "b.pt", references.beats(TINY), TINY))[0]
    waveform = waveforms_of(rng, 1, 1.2)
    apply = jax.jit(lambda waveforms, length: beats.apply(parameters, TINY, waveforms, length))
    alone = apply(waveform, jnp.array([waveform.shape[1]]))
    padded = np.concatenate([waveform, rng.normal(size=(1, 9000)).astype(np.float32)], axis=1)
    beside = apply(padded, jnp.array([waveform.shape[1]]))
    count = beats.num_steps(waveform.shape[1])
    assert alone.shape[1] == count == 7
    assert relative_error(beside[:, :count], alone) < 1e-6


def test_relative_positions_fall_into_the_same_buckets(reference):
    theirs = reference.encoder.layers[0].self_attn
    positions = torch.arange(1200)[None] - torch.arange(1200)[:, None]
    expected = theirs._relative_positions_bucket(positions).numpy()
    np.testing.assert_array_equal(beats.buckets(1200, 320, 800), expected)


def test_a_fine_tuned_file_loads_without_its_classifier(tmp_path):
    model = references.beats(TINY)
    path = write_checkpoint(
        tmp_path / "tuned.pt", model, TINY, **{"predictor.weight": torch.ones(5, 32), "predictor.bias": torch.ones(5)}
    )
    parameters, config, weights = beats.load(path)
    assert config == TINY
    assert "predictor" not in parameters
    assert len(weights.sha256) == 64


def test_both_weight_norms_of_pytorch_are_read(tmp_path):
    model = references.beats(TINY)
    old = write_checkpoint(tmp_path / "old.pt", model, TINY)
    state = references.beats_state(model)
    prefix, kind = "encoder.pos_conv.0.", "parametrizations.weight.original"
    new = {f"{prefix}{kind}0": state.pop(f"{prefix}weight_g"), f"{prefix}{kind}1": state.pop(f"{prefix}weight_v")}
    torch.save({"cfg": references.beats_cfg(TINY), "model": {**state, **new}}, tmp_path / "new.pt")
    for a, b in zip(*(jax.tree.leaves(beats.load(path)[0]) for path in (old, tmp_path / "new.pt")), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"deep_norm": False}, "deep_norm = False, expected True"),
        ({"layer_norm_first": True, "input_patch_size": 8}, "input_patch_size = 8, expected 16; layer_norm_first = Tr"),
        ({"gru_rel_pos": None}, "gru_rel_pos = None, expected True"),
        ({"encoder_layers": "12"}, "encoder_layers = '12', expected a whole number above 0"),
    ],
)
def test_another_config_is_refused_by_name(change, message, tmp_path):
    cfg = {**references.beats_cfg(TINY), **change}
    torch.save({"cfg": cfg, "model": references.beats_state(references.beats(TINY))}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt: cfg is not of BEATs: ") as refused:
        beats.load(tmp_path / "other.pt")
    assert message in str(refused.value)


def test_sizes_that_the_arrays_do_not_have_are_refused(tmp_path):
    cfg = {**references.beats_cfg(TINY), "encoder_layers": 3, "encoder_ffn_embed_dim": 64}
    torch.save({"cfg": cfg, "model": references.beats_state(references.beats(TINY))}, tmp_path / "sizes.pt")
    with pytest.raises(WeightsError) as refused:
        beats.load(tmp_path / "sizes.pt")
    assert "missing encoder.layers.2.fc1.weight (32, 64)" in str(refused.value)
    assert "encoder.layers.0.fc1.weight: expected shape (32, 64), got (32, 48)" in str(refused.value)


def test_a_file_without_cfg_is_refused(tmp_path):
    torch.save(references.beats_state(references.beats(TINY)), tmp_path / "bare.pt")
    with pytest.raises(WeightsError, match=r"bare.pt: expected a BEATs checkpoint \{'cfg', 'model'\}, got no 'cfg'"):
        beats.load(tmp_path / "bare.pt")


def test_tables_that_layers_do_not_share_are_refused(tmp_path):
    state = dict(references.beats_state(references.beats(TINY)))
    name = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    state[name] = state[name] + 1
    torch.save({"cfg": references.beats_cfg(TINY), "model": state}, tmp_path / "apart.pt")
    with pytest.raises(WeightsError, match=r"layers\.1\.self_attn\.relative_attention_bias.*all layers share"):
        beats.load(tmp_path / "apart.pt")


def test_random_parameters_give_finite_steps(rng):
    parameters = beats.init(0, TINY)
    apply = jax.jit(lambda waveforms, length: beats.apply(parameters, TINY, waveforms, length, "bfloat16"))
    steps = apply(waveforms_of(rng, 1, 1.0), jnp.array([16_000]))
    assert steps.shape == (1, 6, 32)
    assert np.isfinite(steps).all()
