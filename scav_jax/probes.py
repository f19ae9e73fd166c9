"""Perturbations of the queries' features: what retrieval loses when the order or the timing of events is disturbed.

permute   so large a share of the frames change places with each other
reverse   so large a share in the middle runs backwards
shift     everything comes later by that share of the clip, and what falls out comes back at the start
warp      time is bent: what was at u (0..1) of the clip is sampled at u^(1 + strength)
crop      that share is cut away, half at each end
freeze    that share at the end shows the frame before it

permute, reverse and shift keep every frame, so that no mean changes before the towers. All are our choice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

Frames = Float32[np.ndarray, "_ width"]


@dataclass(frozen=True)
class Probe:
    """One perturbation; strength is above 0 and at most 1 (crop: below 1). ValueError otherwise."""

    name: str
    strength: float

    def __post_init__(self) -> None:
        if self.name not in PROBES:
            raise ValueError(f"probe: expected one of {', '.join(PROBES)}, got {self.name!r}")
        if not 0 < self.strength <= 1 or (self.name == "crop" and self.strength == 1):
            raise ValueError(f"probe {self.name}: expected a strength above 0, at most 1, got {self.strength:g}")

    @classmethod
    def parse(cls, text: str) -> "Probe":
        """Of "permute:0.5"."""
        name, _, strength = text.partition(":")
        try:
            return cls(name, float(strength))
        except ValueError as error:
            problem = error if name not in PROBES or strength else "expected a strength, as in permute:0.5"
            raise ValueError(f"{text}: {problem}") from error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of features, every modality perturbed; a clip's random numbers are drawn from its index alone."""
        changed = dict(batch)
        for modality in (name.removesuffix("_mask") for name in batch if name.endswith("_mask")):
            frames, mask = batch[modality], batch[f"{modality}_mask"]
            lengths = np.full(len(frames), frames.shape[1]) if mask is None else mask.sum(axis=1)
            clips = [
                PROBES[self.name](clip[:length], self.strength, np.random.default_rng(int(index)))
                for clip, length, index in zip(frames, lengths, batch["index"], strict=True)
            ]
            changed[modality] = np.zeros_like(frames)
            for row, clip in zip(changed[modality], clips, strict=True):
                row[: len(clip)] = clip
            if mask is not None or self.name == "crop":
                kept = np.array([len(clip) for clip in clips])
                changed[f"{modality}_mask"] = np.arange(frames.shape[1]) < kept[:, None]
        return changed


def _permute(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    chosen = rng.choice(len(frames), round(strength * len(frames)), replace=False)
    found = frames.copy()
    found[np.sort(chosen)] = frames[chosen]
    return found


def _reverse(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    count = round(strength * len(frames))
    first = (len(frames) - count) // 2
    found = frames.copy()
    found[first : first + count] = frames[first : first + count][::-1]
    return found


def _shift(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    return np.roll(frames, round(strength * len(frames)), axis=0)


def _warp(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    count = len(frames)
    places = count * ((np.arange(count) + 0.5) / count) ** (1 + strength) - 0.5
    places = np.clip(places, 0, count - 1)
    low = places.astype(int)
    high, share = np.minimum(low + 1, count - 1), (places - low)[:, None]
    return ((1 - share) * frames[low] + share * frames[high]).astype(np.float32)


def _crop(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    kept = max(1, round((1 - strength) * len(frames)))
    first = (len(frames) - kept) // 2
    return frames[first : first + kept]


def _freeze(frames: Frames, strength: float, rng: np.random.Generator) -> Frames:
    still = max(0, len(frames) - round(strength * len(frames)) - 1)
    return frames[np.minimum(np.arange(len(frames)), still)]


PROBES: dict[str, Callable[[Frames, float, np.random.Generator], Frames]] = {
    "permute": _permute,
    "reverse": _reverse,
    "shift": _shift,
    "warp": _warp,
    "crop": _crop,
    "freeze": _freeze,
}
