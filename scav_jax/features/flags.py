"""Which extractors a command is to use: their flags, and what the flags ask for."""

import argparse
from typing import Any

from scav_jax.features.extractors import Beats, Extractor, extractor_names, has_network, make_extractor


def add_extractor_flags(parser: argparse.ArgumentParser) -> None:
    """Which extractors, and their settings."""
    group = parser.add_argument_group("features")
    group.add_argument("--visual", default="pixels", choices=extractor_names("visual"))
    group.add_argument("--audio", default="logmel", choices=extractor_names("audio"))
    group.add_argument("--visual-rate-hz", type=float, help="frames a second (default: the extractor's)")
    group.add_argument("--audio-rate-hz", type=float, help="steps a second (default: the extractor's; BEATs has 6.25)")
    group.add_argument("--clip-model", default="clip-vit-b32", help="clip-vit-b32, -b16, -l14 or clip-rn50")
    group.add_argument(
        "--clip-output", default="", help="projection, class or patches; of clip-rn50 map or attnpool (default: first)"
    )
    group.add_argument("--clip-weights", help=".safetensors, flax_model.msgpack or PyTorch file")
    group.add_argument("--beats-weights", help="BEATs checkpoint, .pt")
    group.add_argument("--random-weights", action="store_true", help="networks without files: to try things out")
    group.add_argument("--precision", default="float32", help="of the networks: float32 or bfloat16")
    group.add_argument("--resize", default="host", choices=("host", "device"), help="where pictures become 224 x 224")


def extractors_of(options: argparse.Namespace) -> tuple[list[Extractor], dict[str, Any]]:
    """The extractors that the flags ask for, and the encoders of those with a network; ValueError: they cannot be."""
    settings: dict[str, dict[str, Any]] = {
        "pixels": {"rate_hz": options.visual_rate_hz},
        "logmel": {"rate_hz": options.audio_rate_hz},
        "clip": {
            "rate_hz": options.visual_rate_hz,
            "model": options.clip_model,
            "output": options.clip_output,
            "resize": options.resize,
            "precision": options.precision,
        },
        "beats": {"precision": options.precision},
    }
    if options.audio == "beats" and options.audio_rate_hz not in (None, Beats.rate_hz):
        raise ValueError(
            f"--audio-rate-hz: expected {Beats.rate_hz:g}, the rate of BEATs, got {options.audio_rate_hz:g}"
        )
    weights = {"clip": options.clip_weights, "beats": options.beats_weights}
    extractors: list[Extractor] = []
    encoders = {}
    for name in (options.visual, options.audio):
        given = {key: value for key, value in settings[name].items() if value is not None}
        extractor = make_extractor(name, **given)
        if has_network(extractor):
            from scav_jax.features import networks
            from scav_jax.models.weights import KNOWN

            if weights[name] is None and not options.random_weights:
                raise ValueError(
                    f"--{name}-weights: expected a file of weights (or --random-weights to try things out)"
                )
            extractor, encoders[extractor.modality] = networks.load(extractor, weights[name])
            if weights[name] is not None:
                known = KNOWN.get(extractor.weights, "not among the files known here")
                print(f"{weights[name]}: sha256 {extractor.weights}, {known}", flush=True)
        extractors.append(extractor)
    return extractors, encoders
