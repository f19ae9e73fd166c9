"""Golden vectors of the frozen networks: tiny ones with random weights, run by their PyTorch references.

PYTHONPATH=.:tests python tests/golden/make.py

writes beside itself one .npz a network: its weights by their published names (weights/...), inputs, and outputs. The
tests compare ours with them where the references are not installed.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from golden.sizes import BEATS, RESNET, VIT

from benchmarks import references
from scav_jax.models.clip import MEAN, STDDEV

FOLDER = Path(__file__).parent


def main() -> None:
    rng = np.random.default_rng(5)
    pictures = {config: rng.integers(0, 256, (3, config.image, config.image, 3), np.uint8) for config in (VIT, RESNET)}
    with torch.no_grad():
        vit = references.vision_transformer(VIT)
        whole = vit(_normalised(pictures[VIT]))
        hidden = vit.vision_model(_normalised(pictures[VIT]))
        outputs = {
            "projection": whole.image_embeds,
            "class": hidden.pooler_output,
            "patches": hidden.last_hidden_state[:, 1:].mean(dim=1),
        }
        _save("clip_vit", vit.state_dict(), {"pictures": pictures[VIT]}, outputs)

        resnet = references.resnet(RESNET)
        last = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(resnet.stem(_normalised(pictures[RESNET]))))))
        outputs = {"map": last.mean(dim=(2, 3)), "attnpool": resnet.attnpool(last)}
        _save("clip_resnet", resnet.state_dict(), {"pictures": pictures[RESNET]}, outputs)

        beats = references.beats(BEATS)
        waveforms = rng.normal(0, 0.1, (2, 16_000)).astype(np.float32)
        tokens = beats(torch.tensor(waveforms), torch.tensor([16_000] * 2))[0]
        outputs = {
            "bank": references.kaldi_bank(torch.tensor(waveforms) * 2**15),
            "steps": tokens.reshape(2, -1, 8, BEATS.encoder_embed_dim).mean(dim=2),
        }
        cfg = {f"cfg/{name}": np.array(value) for name, value in asdict(BEATS).items()}
        _save("beats", references.beats_state(beats), {"waveforms": waveforms, **cfg}, outputs)


def _normalised(pictures: np.ndarray) -> torch.Tensor:
    return torch.tensor((pictures / 255 - np.array(MEAN)) / np.array(STDDEV), dtype=torch.float32).permute(0, 3, 1, 2)


def _save(name: str, state: dict, inputs: dict, outputs: dict) -> None:
    arrays = {f"weights/{key}": tensor.numpy() for key, tensor in state.items()}
    np.savez_compressed(
        FOLDER / f"{name}.npz", **arrays, **inputs, **{key: tensor.numpy() for key, tensor in outputs.items()}
    )


if __name__ == "__main__":
    main()
