"""Networks in an extraction: any number of devices and any neighbours give the same features, without collectives."""

import re

import jax
import numpy as np
import pytest
import torch
from films import write_film

from benchmarks import references
from scav_jax import parallel
from scav_jax.features import networks
from scav_jax.features.extract import extract
from scav_jax.features.extractors import Beats, ClipFrames
from scav_jax.features.media import MediaError, read_sound
from scav_jax.models import clip
from scav_jax.models.beats import BeatsConfig
from scav_jax.models.clip_vit import VitConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
COLLECTIVES = re.compile(r"all-(gather|reduce|to-all)|reduce-scatter|collective-(permute|broadcast)")


@pytest.fixture
def small_clip(monkeypatch):
    config = VitConfig(width=16, num_layers=2, num_heads=2, patch=32, projection=8)
    monkeypatch.setitem(clip.MODELS, "clip-vit-b32", config)


@pytest.fixture(scope="module")
def small_beats(tmp_path_factory):
    config = BeatsConfig(16, 2, 32, 48, 4, 24, 4, 32, 60)
    path = tmp_path_factory.mktemp("weights") / "beats.pt"
    model = references.beats_state(references.beats(config))
    torch.save({"cfg": references.beats_cfg(config), "model": model}, path)
    return path


def mesh_of(count):
    return parallel.make_mesh(jax.devices()[:count])


@pytest.fixture
def pictures(rng):
    return [rng.integers(0, 256, (count, 224, 224, 3), np.uint8) for count in (5, 1, 3)]


@pytest.fixture
def sounds(rng):
    return [rng.normal(0, 0.1, round(16_000 * seconds)).astype(np.float32) for seconds in (1.0, 0.4, 4.0)]


def test_eight_devices_give_what_one_gives_without_collectives(small_clip, small_beats, pictures, sounds, monkeypatch):
    monkeypatch.setattr(networks, "FRAMES", 2)
    monkeypatch.setattr(networks, "_SOUNDS_S", 5)
    for extractor, weights, media in ((ClipFrames(), None, pictures), (Beats(), small_beats, sounds)):
        encoders = {count: networks.load(extractor, weights, mesh_of(count))[1] for count in (1, 8)}
        one, eight = (encoders[count](media) for count in (1, 8))
        assert [len(features) for features in one] == ([5, 1, 3] if media is pictures else [6, 2, 24])
        for a, b in zip(one, eight, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert (encoders[1].together, encoders[8].together) == (networks.TOGETHER, 8 * networks.TOGETHER)
        program = encoders[8].program
        size = 8 * 2 if media is pictures else 8
        batch = (
            np.zeros((size, 224, 224, 3), np.uint8)
            if media is pictures
            else {"waveforms": np.zeros((size, 80_000), np.float32), "lengths": np.full(size, 80_000, np.int32)}
        )
        spread = parallel.spread_whole(batch, program.mesh)
        text = program.compiled.lower(program.parameters, spread).compile().as_text()
        assert "num_partitions=8" in text
        assert not COLLECTIVES.search(text)


def test_neighbours_change_nothing(small_clip, small_beats, pictures, sounds):
    """Bit for bit: an extraction that was killed groups its clips in another way."""
    for extractor, weights, media in ((ClipFrames(), None, pictures), (Beats(), small_beats, sounds)):
        encode = networks.load(extractor, weights, mesh_of(1))[1]
        for beside, alone in zip(encode(media), [encode([part])[0] for part in media], strict=True):
            np.testing.assert_array_equal(beside, alone)


@pytest.mark.heavy
def test_films_through_both_networks(small_clip, small_beats, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    for number in range(3):
        write_film(media / f"film{number}.mp4", pitch_hz=300.0 + 100 * number)
    found = {}
    for resize in ("host", "device"):
        visual, see = networks.load(ClipFrames(rate_hz=5.0, resize=resize), None, mesh_of(1))
        audio, hear = networks.load(Beats(), small_beats, mesh_of(1))
        out = tmp_path / resize
        report = extract(
            media, out, [visual, audio], encoders={"visual": see, "audio": hear}, num_workers=2, progress=False
        )
        assert (report.num_extracted, report.bad) == (3, {})
        found[resize] = np.load(out / "film1.npz")
        assert found[resize]["visual"].shape == (10, 8)
        assert found[resize]["audio"].shape == (12, 32)
        assert audio.weights in (out / "extraction.json").read_text()
    np.testing.assert_allclose(found["host"]["visual"], found["device"]["visual"], atol=0.05)
    sound = read_sound(media / "film1.mp4", 16_000)
    np.testing.assert_allclose(found["host"]["audio"], hear([sound])[0], atol=1e-5)


def test_sounds_too_long_or_too_short_for_beats(tmp_path):
    write_film(tmp_path / "film.mp4", length_s=0.3)
    with pytest.raises(MediaError, match=r"sound of 0\.30 s; BEATs takes 0\.175 to 0\.2 s"):
        type("Short", (Beats,), {"longest_s": 0.2})().read(tmp_path / "film.mp4")


def test_settings_that_do_not_exist():
    with pytest.raises(ValueError, match=r"model: expected one of clip-vit-b32, .* got 'clip-vit-h14'"):
        ClipFrames(model="clip-vit-h14")
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, got 'int8'"):
        networks.load(Beats(precision="int8"), None)
    with pytest.raises(ValueError, match="clip resize: expected host or device, got 'gpu'"):
        ClipFrames(resize="gpu")
