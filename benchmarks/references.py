"""Other people's CLIP, BEATs and Kaldi filter bank in PyTorch, with random weights, for ours to be compared with.

`make` puts open_clip, openbeats and torchaudio beside the environment without what they depend on (PyTorch builds for
CUDA); what of that they import and never call here is answered by empty modules. CLIP's vision transformer is
transformers' own.
"""

import importlib
import importlib.machinery
import os
import sys
import types
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from scav_jax.models.beats import BeatsConfig
from scav_jax.models.clip_resnet import ResNetConfig
from scav_jax.models.clip_vit import VitConfig

FOLDER = Path(os.environ.get("SCAV_REFERENCES") or Path(sys.prefix) / "references")

# What open_clip imports for code that is never run.
_ABSENT = {"torchvision": (), "torchvision.ops": (), "torchvision.ops.misc": ("FrozenBatchNorm2d",)}
_PACKAGES = {"open_clip", "openbeats", "torchaudio"}


def vision_transformer(config: VitConfig, *, seed: int = 0) -> Any:
    """transformers' CLIP vision model with its projection."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            patch_size=config.patch,
            projection_dim=config.projection,
            image_size=config.image,
        )
    )
    return perturbed(model, seed)


def resnet(config: ResNetConfig, *, seed: int = 0) -> Any:
    """open_clip's ModifiedResNet."""
    torch.manual_seed(seed)
    module = _module("open_clip.modified_resnet")
    heads = 32 * config.width // 64
    model = module.ModifiedResNet(list(config.blocks), config.projection, heads, config.image, config.width)
    return perturbed(model, seed)


def beats(config: BeatsConfig, *, seed: int = 0) -> Any:
    """openbeats' encoder: model(waveforms (n, samples), lengths)[0] is (n, tokens, width)."""
    torch.manual_seed(seed)
    module = _module("openbeats.beats_encoder")
    return perturbed(module.BeatsEncoder(input_size=0, beats_config=beats_cfg(config)), seed)


def beats_cfg(config: BeatsConfig) -> dict[str, Any]:
    """The 'cfg' of a published file of these sizes."""
    published = {
        "input_patch_size": 16,
        "conv_bias": False,
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "deep_norm": True,
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "finetuned_model": False,
    }
    return {**published, **asdict(config)}


def beats_state(model: Any) -> dict[str, torch.Tensor]:
    """The arrays of a published file: without the two constants that openbeats keeps for its masks."""
    return {name: tensor for name, tensor in model.state_dict().items() if "_pad." not in name}


def kaldi_bank(waveforms: torch.Tensor) -> torch.Tensor:
    """torchaudio's filter bank, as BEATs calls it, of waveforms in the scale of 16-bit integers."""
    fbank = _module("torchaudio.compliance.kaldi").fbank
    options = dict(num_mel_bins=128, sample_frequency=16000, frame_length=25, frame_shift=10)
    return torch.stack([fbank(waveform[None], **options) for waveform in waveforms])


def perturbed(model: Any, seed: int) -> Any:
    """Every bias, gain, gate and statistic away from the zeros and ones that hide mistakes."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "_pad." in name or not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.3 * noise(tensor).abs())
            elif name.endswith("grep_a") or (tensor.ndim == 1 and not name.endswith(("bias", "running_mean"))):
                tensor.add_(0.2 * noise(tensor))
            elif tensor.ndim == 1 or tensor.abs().max() == 0:
                tensor.add_(0.1 * noise(tensor))
            # open_clip begins with these at zero: a block would add nothing
            if name.endswith("bn3.weight"):
                tensor.add_(0.3)
    return model.eval()


def _module(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    if not FOLDER.is_dir():
        raise RuntimeError(f"{FOLDER}: expected the references; `make install` puts them there")
    stand_ins = {package: types.ModuleType(package) for package in _PACKAGES}
    for package, module in stand_ins.items():  # without running its __init__, which imports all of it
        module.__path__ = [str(FOLDER / package)]
        # transformers asks for it
        module.__spec__ = importlib.machinery.ModuleSpec(package, None, is_package=True)
    if name.startswith("open_clip"):
        stand_ins |= {absent: types.ModuleType(absent) for absent in _ABSENT}
        for absent, attributes in _ABSENT.items():
            vars(stand_ins[absent]).update(dict.fromkeys(attributes, object))
    known = {name: module for name, module in sys.modules.items() if name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    finally:  # whoever asks for one of them later is to find it missing
        for stand_in in stand_ins:
            del sys.modules[stand_in]
        sys.modules.update(known)
