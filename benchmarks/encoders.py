"""The frozen networks beside PyTorch's on the same pictures and sounds, and what an extraction spends its time on.

python -m benchmarks.encoders     writes benchmarks/results/encoders.md; --quick: two layers, one clip, to stdout only
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import measure, page, references, tables, torch_parts
from benchmarks.measure import Contender, Result
from benchmarks.tables import Table
from scav_jax.features import health, networks
from scav_jax.features.extract import extract
from scav_jax.features.extractors import Beats, ClipFrames
from scav_jax.features.media import WHOLE, read_frames, read_sound, write_clip
from scav_jax.features.pictures import resize
from scav_jax.models import beats, clip
from scav_jax.models.clip_resnet import ResNetConfig
from scav_jax.models.clip_vit import VitConfig
from scav_jax.models.weights import Weights

TARGET, LIMIT = 0.75, 2e-5
PICTURES, SOUNDS = 16, 2  # a call
CLIP_S, RATE_HZ = 10, 4.0  # of a clip: 40 pictures and one sound
SECONDS = 20.0  # of pairs for each network


def networks_table(quick: bool) -> Table:
    table = Table(
        "Networks",
        ("network", "output", "ours", "PyTorch", "ratio", "target", "met", "apart", "limit", "within"),
        f"Full depth, random weights with every bias, gain and gate perturbed, float32; {PICTURES} pictures a call, or "
        f"{SOUNDS} sounds of {CLIP_S} s from the waveform on. Time of a clip of {CLIP_S} s: {CLIP_S * RATE_HZ:.0f} "
        "pictures or one sound. Ratio: PyTorch's time over ours, median of pairs. Peers: transformers (ViT), open_clip "
        "(RN50), openbeats with torchaudio's filter bank (BEATs). Apart: norm of the difference over norm.",
    )
    for model, pictures in clip.MODELS.items():
        if quick and isinstance(pictures, VitConfig):
            pictures = replace(pictures, num_layers=2)
        _add(table, model, clip.outputs(model)[0], *_clip(pictures, clip.outputs(model)[0]), quick, LIMIT)
    sounds = beats.BeatsConfig(encoder_layers=2 if quick else 12)
    _add(table, "beats", "mean over bands", *_beats(sounds), quick, 1e-4)
    return table


def _clip(config: VitConfig | ResNetConfig, output: str) -> tuple[Contender, Contender, float]:
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, clip.SIZE, clip.SIZE, 3), np.uint8)
    images = torch.tensor((pictures / 255 - np.array(clip.MEAN)) / np.array(clip.STDDEV), dtype=torch.float32)
    images = images.permute(0, 3, 1, 2).contiguous()
    if isinstance(config, VitConfig):
        model = references.vision_transformer(config)
        run_peer: Callable = lambda: model(images).image_embeds  # noqa: E731
    else:
        model = references.resnet(config)
        run_peer = lambda: _last_map(model, images).mean(dim=(2, 3))  # noqa: E731
    parameters = jax.device_put(clip.convert(_weights(model.state_dict()), config, output))
    compiled = jax.jit(lambda parameters, x: clip.apply(parameters, config, output, x))
    return _ours(compiled, parameters, jnp.asarray(pictures)), _peer(run_peer), CLIP_S * RATE_HZ / PICTURES


def _last_map(model, images):
    x = model.stem(images)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
    return x


def _beats(config: beats.BeatsConfig) -> tuple[Contender, Contender, float]:
    sounds = np.random.default_rng(0).normal(0, 0.1, (SOUNDS, CLIP_S * beats.RATE_HZ)).astype(np.float32)
    lengths = np.full(SOUNDS, sounds.shape[1])
    model = references.beats(config)
    parameters = jax.device_put(beats.convert(_weights(references.beats_state(model)), config))
    compiled = jax.jit(lambda parameters, x, n: beats.apply(parameters, config, x, n))

    def run_peer():
        tokens = model(torch.tensor(sounds), torch.tensor(lengths))[0]
        return tokens.reshape(SOUNDS, -1, beats.ROWS, tokens.shape[-1]).mean(dim=2)

    return _ours(compiled, parameters, jnp.asarray(sounds), jnp.asarray(lengths)), _peer(run_peer), 1 / SOUNDS


def _weights(state: dict) -> Weights:
    return Weights(Path("reference"), "", {name: tensor.numpy() for name, tensor in state.items()})


def _ours(compiled: Callable, *arguments) -> Contender:
    return Contender("ours", lambda: Result(jax.block_until_ready(compiled(*arguments))))


def _peer(run: Callable) -> Contender:
    def without_gradients():
        with torch.no_grad():
            return Result(run().numpy())

    return Contender("PyTorch", without_gradients)


def _add(table: Table, name: str, output: str, ours: Contender, peer: Contender, calls: float, quick, limit) -> None:
    result = measure.compare(ours, [lambda: peer], 0 if quick else SECONDS)
    apart = measure.difference(ours.run().values, peer.run().values)
    table.rows.append(
        (
            *(name, output, tables.seconds(calls * result.ours_s), tables.seconds(calls * result.peer_s)),
            *(tables.times(result.ratio), tables.at_least(TARGET), tables.met(result.ratio, TARGET)),
            *(tables.relative(apart), f"{limit:.0e}", tables.within(apart, limit)),
        )
    )


def extraction_table(quick: bool) -> Table:
    count = 2 if quick else 24
    table = Table(
        "An extraction",
        ("part", "a clip", "share"),
        f"{count} rendered clips of {CLIP_S} s, 320 x 240 at 25 frames a second, H.264 and AAC: clip-vit-b32 at "
        f"{RATE_HZ:g} Hz and beats, random weights. Parts by themselves, one after the other.",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "media").mkdir()
        for index in range(count):
            _render(folder / "media" / f"clip{index:02d}.mp4", index)
        paths = sorted((folder / "media").iterdir())
        visual, see = networks.load(ClipFrames(rate_hz=RATE_HZ), None)
        audio, hear = networks.load(Beats(), None)
        frames = [read_frames(path, RATE_HZ, span=WHOLE) for path in paths]
        sounds = [read_sound(path, beats.RATE_HZ) for path in paths]
        pictures = [resize(part) for part in frames]
        see(pictures), hear(sounds)  # compiled before anything is timed
        parts = {
            "decode the picture": lambda: [read_frames(path, RATE_HZ) for path in paths],
            "decode the sound": lambda: [read_sound(path, beats.RATE_HZ) for path in paths],
            "resize (PIL)": lambda: [resize(part) for part in frames],
            "health": lambda: [
                (health.measure(part, RATE_HZ), health.measure(sound, beats.RATE_HZ))
                for part, sound in zip(pictures, sounds, strict=True)
            ],
            "CLIP": lambda: see(pictures),
            "BEATs": lambda: hear(sounds),
        }
        spent = {part: measure.timed(run) / count for part, run in parts.items()}
        encoders = {"visual": see, "audio": hear}
        whole = measure.timed(lambda: extract(folder / "media", folder / "out", [visual, audio], encoders=encoders))
    total = sum(spent.values())
    table.rows += [(part, tables.seconds(value), f"{100 * value / total:.1f} %") for part, value in spent.items()]
    table.notes.append(
        f"all together, decoding in {os.cpu_count()} processes beside the networks, their start included: "
        f"{count / whole:.3g} clips a second, {whole / count / total:.2f} times the sum of the parts"
    )
    return table


def _render(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (CLIP_S * 25 // 5, 6, 8, 3), np.uint8)
    frames = np.repeat(coarse, 5, axis=0).repeat(40, axis=1).repeat(40, axis=2)
    times_s = np.arange(CLIP_S * beats.RATE_HZ) / beats.RATE_HZ
    sound = 0.3 * np.sin(2 * np.pi * (200 + 20 * seed) * times_s) + rng.normal(0, 0.02, len(times_s))
    write_clip(path, frames, sound, frame_rate_hz=25, sound_rate_hz=beats.RATE_HZ)


def main() -> None:
    quick = page.parser(__doc__, quick="two layers and one clip, to stdout only").parse_args().quick
    found = [networks_table(quick), extraction_table(quick)]
    text = page.page("encoders", "Frozen networks and extraction", found, about=f", {torch_parts.version('torch')}")
    page.write("encoders", text, keep=not quick)


if __name__ == "__main__":
    main()
