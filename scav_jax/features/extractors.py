"""What turns one clip's media into one feature sequence: the interface, and two light extractors without weights.

An extractor is a frozen dataclass whose fields are its settings. `read` decodes what it needs (in a worker process)
and the call computes features from that, so that a pretrained network can decode on many cores and compute elsewhere.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from scav_jax.features import media


@runtime_checkable
class Extractor(Protocol):
    """One modality's extractor: `rate_hz` vectors of `width` numbers a second.

    `version` changes whenever the same settings give other numbers.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    modality: ClassVar[str]

    @property
    def rate_hz(self) -> float: ...

    @property
    def width(self) -> int: ...

    def read(self, path: Path) -> np.ndarray:
        """Decodes what the call needs; MediaError where the file does not have it."""

    def __call__(self, media: np.ndarray) -> Float32[np.ndarray, "length width"]: ...


@dataclass(frozen=True)
class Pixels:
    """Brightness of the picture's patches, and how much brighter each grew: enough to see where and when things move.

    The first rows * columns numbers of a frame are the patches' mean lumas (0..1) minus the clip's temporal median of
    that patch: what never changes says nothing of time. The others are their positive changes since the previous frame
    (0 in the first). All times `gain`, which brings small moving things to about unit range. Our choice.
    """

    rate_hz: float = 8.0
    rows: int = 8
    columns: int = 12
    gain: float = 4.0

    name: ClassVar[str] = "pixels"
    version: ClassVar[str] = "1"
    modality: ClassVar[str] = "visual"
    patch: ClassVar[int] = 8  # pixels of the scaled frame along a patch's side

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise ValueError(f"pixels rate_hz: expected a positive rate, got {self.rate_hz}")

    @property
    def width(self) -> int:
        return 2 * self.rows * self.columns

    def read(self, path: Path) -> UInt8[np.ndarray, "n height width 3"]:
        return media.read_frames(path, self.rate_hz, size=(self.rows * self.patch, self.columns * self.patch))

    def __call__(self, media: UInt8[np.ndarray, "n height width 3"]) -> Float32[np.ndarray, "n features"]:
        luma = media @ np.array([0.299, 0.587, 0.114], np.float32) / 255
        patches = luma.reshape(len(luma), self.rows, self.patch, self.columns, self.patch)
        means = patches.mean(axis=(2, 4)).reshape(len(luma), -1)
        brighter = np.maximum(np.diff(means, axis=0, prepend=means[:1]), 0)
        return self.gain * np.concatenate([means - np.median(means, axis=0), brighter], axis=1)


@dataclass(frozen=True)
class LogMel:
    """Log mel spectrogram, `bands` bands from 50 Hz to 8 kHz, `rate_hz` steps a second.

    Power spectra (Hann window of 64 ms, every 10 ms, scaled so that a full-scale sine has power 1 at its peak) pass
    librosa's mel filters (Slaney's, peak 1). Step j is the mean power of the windows centred in [j, j + 1) / rate_hz:
    steps never drift, whatever the rate. Then (log10(power + 1e-7) + 5) / 2: silence is -1, loud about 2. Our choice.
    """

    rate_hz: float = 12.0
    bands: int = 64

    name: ClassVar[str] = "logmel"
    version: ClassVar[str] = "1"
    modality: ClassVar[str] = "audio"
    sample_rate_hz: ClassVar[int] = 16_000
    window: ClassVar[int] = 1024
    hop: ClassVar[int] = 160

    def __post_init__(self) -> None:
        if not 0 < self.rate_hz <= 50:
            raise ValueError(
                f"logmel rate_hz: expected 0 < rate_hz <= 50 (windows come every 10 ms), got {self.rate_hz}"
            )

    @property
    def width(self) -> int:
        return self.bands

    def read(self, path: Path) -> Float32[np.ndarray, " S"]:
        return media.read_sound(path, self.sample_rate_hz)

    def __call__(self, media: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, "m bands"]:
        num_steps = max(1, round(len(media) / self.sample_rate_hz * self.rate_hz))
        padded = np.pad(media, self.window // 2)  # window k is centred on sample k * hop
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop]
        hann = np.hanning(self.window + 1)[:-1].astype(np.float32)
        spectrum = np.fft.rfft(windows * (hann * np.float32(2 / hann.sum())))
        power = (np.square(spectrum.real) + np.square(spectrum.imag)) @ _mel_filters(
            self.sample_rate_hz, self.window, self.bands
        )
        centres_s = np.arange(len(windows)) * self.hop / self.sample_rate_hz
        steps = np.minimum((centres_s * self.rate_hz + 1e-9).astype(int), num_steps - 1)
        starts = np.searchsorted(steps, np.arange(num_steps))
        means = np.add.reduceat(power, starts, axis=0) / np.bincount(steps, minlength=num_steps)[:, None]
        return ((np.log10(means + 1e-7) + 5) / 2).astype(np.float32)


@cache
def _mel_filters(sample_rate_hz: int, window: int, bands: int) -> np.ndarray:
    """(window / 2 + 1, bands) float32, read-only."""
    try:
        from librosa.filters import mel
    except ImportError as error:
        raise ImportError("logmel needs librosa: pip install 'scav-jax[media]'") from error
    filters = mel(sr=sample_rate_hz, n_fft=window, n_mels=bands, fmin=50.0, fmax=8000.0, norm=None).T.copy()
    filters.flags.writeable = False
    return filters


_EXTRACTORS: dict[str, Any] = {extractor.name: extractor for extractor in (Pixels, LogMel)}


def extractor_names(modality: str) -> tuple[str, ...]:
    """The extractors there are for a modality."""
    return tuple(name for name, extractor in _EXTRACTORS.items() if extractor.modality == modality)


def make_extractor(name: str, **settings: Any) -> Extractor:
    """The extractor `name` with `settings` in place of its defaults; ValueError for an unknown name or setting."""
    if name not in _EXTRACTORS:
        raise ValueError(f"extractor: expected one of {', '.join(_EXTRACTORS)}, got {name!r}")
    known = [field.name for field in dataclasses.fields(_EXTRACTORS[name])]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{name}: expected settings among {', '.join(known)}, got {setting!r}")
    return _EXTRACTORS[name](**settings)


def describe(extractor: Extractor) -> dict[str, Any]:
    """JSON-able name, version and settings: what a ledger keeps, and compares."""
    return {"name": extractor.name, "version": extractor.version, **dataclasses.asdict(extractor)}  # type: ignore[call-overload]
