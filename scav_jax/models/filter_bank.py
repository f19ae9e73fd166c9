"""Kaldi's log mel filter bank as BEATs was trained on it, of 16 kHz waveforms; differentiable where the power is not 0.

Frames of 25 ms every 10 ms, whole ones only; each less its mean, pre-emphasised by 0.97, times the Povey window, its
power spectrum over 512 points, 128 triangles between 20 Hz and 8 kHz on Kaldi's mel scale, the log floored at float32's
epsilon. Band 3 (of 0 to 127) lies between two bins of the spectrum and is always at that floor: networks know it so.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

RATE_HZ = 16_000
BANDS = 128
WINDOW, HOP, POINTS = 400, 160, 512
_LOW_HZ, _HIGH_HZ = 20.0, 8000.0
_FLOOR = float(np.finfo(np.float32).eps)


def num_frames(num_samples: Any) -> Any:
    """Whole windows in so many samples, at least WINDOW: an int, or an array of them."""
    return 1 + (num_samples - WINDOW) // HOP


def filter_bank(waveforms: Float[Array, "n samples"]) -> Float[Array, "n frames 128"]:
    """Waveforms in the scale of 16-bit integers (BEATs: 2**15 times [-1, 1]) -> log energies of the 128 bands.

    Pre-emphasis, window and Fourier transform are one matrix: rounded once, 20 times nearer to float64 than Kaldi's
    float32. And under jit with sharded inputs `jnp.fft` would gather the whole batch.
    """
    count = num_frames(waveforms.shape[1])
    # Windows overlap by 2.5 hops: whole hops side by side, instead of a gather of every sample.
    hops = waveforms[:, : (count + 2) * HOP]
    hops = jnp.pad(hops, ((0, 0), (0, (count + 2) * HOP - hops.shape[1]))).reshape(len(waveforms), -1, HOP)
    frames = jnp.concatenate([hops[:, shift : shift + count] for shift in range(3)], axis=2)[..., :WINDOW]
    frames = frames - frames.mean(axis=2, keepdims=True)  # by itself: of a constant, nothing is to remain
    cosines, sines = (jnp.matmul(frames, basis, precision="highest") for basis in _bases())
    power = jnp.matmul(cosines**2 + sines**2, _triangles(), precision="highest")
    return jnp.log(jnp.maximum(power, _FLOOR))


@cache
def _bases() -> tuple[np.ndarray, np.ndarray]:
    """(WINDOW, POINTS / 2) each: what turns a frame into the real and imaginary parts of its spectrum.

    The last bin is left out: no band has it.
    """
    time = np.arange(WINDOW)
    emphasis = np.eye(WINDOW) - 0.97 * np.eye(WINDOW, k=1)
    emphasis[0, 0] -= 0.97  # before the first sample Kaldi takes the first again
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * time / (WINDOW - 1))) ** 0.85
    angles = 2 * np.pi * time[:, None] * np.arange(POINTS // 2)[None] / POINTS
    cosines, sines = (emphasis @ (povey[:, None] * wave(angles)) for wave in (np.cos, np.sin))
    return cosines.astype(np.float32), sines.astype(np.float32)


@cache
def _triangles() -> np.ndarray:
    """(POINTS / 2, BANDS) weights: triangles of equal width on the mel scale, evaluated at the bins' mel."""
    low, high = _mel(np.array([_LOW_HZ, _HIGH_HZ]))
    step = (high - low) / (BANDS + 1)
    left = low + np.arange(BANDS)[None] * step
    bins = _mel(np.arange(POINTS // 2) * RATE_HZ / POINTS)[:, None]
    rising, falling = (bins - left) / step, (left + 2 * step - bins) / step
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _mel(frequency_hz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(frequency_hz / 700.0)


def to_16_bit(waveforms: Float[Array, "n samples"]) -> jax.Array:
    """[-1, 1] -> the scale of 16-bit integers, which BEATs' normalisation expects."""
    return waveforms * 2.0**15
