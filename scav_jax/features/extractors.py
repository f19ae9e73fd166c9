"""What turns one clip's media into one feature sequence: the interface, and the settings of every extractor there is.

An extractor is a frozen dataclass whose fields are its settings. `read` decodes what it needs, in a worker process. A
light one then computes its features there and then; a network's are computed by features/networks.py, on the
accelerator, of what many workers read.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeGuard, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from scav_jax.features import media, pictures
from scav_jax.features.media import WHOLE, MediaError, Span


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

    def read(self, path: Path, span: Span = WHOLE) -> np.ndarray:
        """Decodes what the features are computed of: frames or a waveform. MediaError where the file has none."""


def has_network(extractor: Extractor) -> TypeGuard["ClipFrames | Beats"]:
    """Whether its features are computed by a network, on the accelerator."""
    return not callable(extractor)  # isinstance would ask for its width, and that for JAX, in a worker too


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

    def read(self, path: Path, span: Span = WHOLE) -> UInt8[np.ndarray, "n height width 3"]:
        size = self.rows * self.patch, self.columns * self.patch
        return media.read_frames(path, self.rate_hz, size=size, span=span)

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

    def read(self, path: Path, span: Span = WHOLE) -> Float32[np.ndarray, " S"]:
        return media.read_sound(path, self.sample_rate_hz, span=span)

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


@dataclass(frozen=True)
class ClipFrames:
    """A vector a frame by a CLIP vision tower (models/clip.py has models and outputs).

    output: "" becomes the model's first. resize: on the host by PIL, as CLIP was trained, or on the device, which
    compiles once for each size of picture. precision: of the network's products. weights: sha256 of their file, or
    "random".
    """

    rate_hz: float = 4.0
    model: str = "clip-vit-b32"
    output: str = ""
    resize: str = "host"
    precision: str = "float32"
    weights: str = "random"

    name: ClassVar[str] = "clip"
    version: ClassVar[str] = "1"
    modality: ClassVar[str] = "visual"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise ValueError(f"clip rate_hz: expected a positive rate, got {self.rate_hz}")
        if self.resize not in ("host", "device"):
            raise ValueError(f"clip resize: expected host or device, got {self.resize!r}")
        # Not in a worker: unpickling does not come here, and a worker needs no JAX.
        from scav_jax.models import clip

        object.__setattr__(self, "output", self.output or clip.outputs(self.model)[0])
        clip.width(self.model, self.output)

    @property
    def width(self) -> int:
        from scav_jax.models import clip

        return clip.width(self.model, self.output)

    def read(self, path: Path, span: Span = WHOLE) -> UInt8[np.ndarray, "n height width 3"]:
        frames = media.read_frames(path, self.rate_hz, span=span)
        return pictures.resize(frames) if self.resize == "host" else frames


@dataclass(frozen=True)
class Beats:
    """A vector every 0.16 s of sound by BEATs: the mean of its tokens over the bands. precision, weights: as above."""

    precision: str = "float32"
    weights: str = "random"

    name: ClassVar[str] = "beats"
    version: ClassVar[str] = "1"
    modality: ClassVar[str] = "audio"
    width: ClassVar[int] = 768
    rate_hz: ClassVar[float] = 6.25
    sample_rate_hz: ClassVar[int] = 16_000
    shortest: ClassVar[int] = 2800  # samples of one step
    longest_s: ClassVar[float] = 120.0  # attention grows with the square of the length

    def read(self, path: Path, span: Span = WHOLE) -> Float32[np.ndarray, " S"]:
        sound = media.read_sound(path, self.sample_rate_hz, span=span)
        if not self.shortest <= len(sound) <= self.longest_s * self.sample_rate_hz:
            raise MediaError(
                path, f"sound of {len(sound) / self.sample_rate_hz:.2f} s; BEATs takes 0.175 to {self.longest_s:g} s"
            )
        return sound


_EXTRACTORS: dict[str, Any] = {extractor.name: extractor for extractor in (Pixels, ClipFrames, LogMel, Beats)}


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
