"""Media files in and out: frames picked by timestamp, sound as a mono waveform, small H.264 + AAC clips written.

A file's time runs from where its video stream starts, so frames and sound share one clock, to the end that this stream
states (AAC pads the sound to whole packets); without a video stream from the container's start to its end.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

# A stream that ends this much before its stated end was cut off; less is the usual slack of containers.
_SLACK_S = 0.5
_MICROSECONDS = 1_000_000
_ROUNDING_S = 1e-6  # of timestamps in containers
_RUN_UP_S = 0.5  # of sound decoded before a part, for codecs that lean on what came before

FAST = {"preset": "ultrafast", "crf": "26"}

# How frames and samples are placed in time; another rule, other features.
TIMESTAMPS = (
    "frame i is the latest shown at (i + 0.5) / rate_hz from the start of the video stream; sound from there on"
)


class MediaError(Exception):
    """One media file that cannot be used: `path` and a one-line `reason`."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Span:
    """Part of a file: `length_s` seconds from `start_s` on, or up to the end where that is sooner or length is None."""

    start_s: float = 0.0
    length_s: float | None = None


WHOLE = Span()


@dataclass(frozen=True)
class MediaInfo:
    """What a media file says of itself; `duration_s` is the clip's length."""

    duration_s: float
    has_video: bool
    has_sound: bool


def probe(path: str | Path) -> MediaInfo:
    """The clip's length in seconds and its streams, from the header alone; MediaError if it cannot be opened."""
    with _opened(path) as container:
        return MediaInfo(_duration_s(container, path), bool(_videos(container)), bool(container.streams.audio))


def read_frames(
    path: str | Path,
    rate_hz: float,
    *,
    size: tuple[int, int] | None = None,
    max_width: int | None = None,
    span: Span = WHOLE,
) -> UInt8[np.ndarray, "n height width 3"]:
    """RGB frames at the times t_i = (i + 0.5) / rate_hz of the span, i < n = max(1, round(its seconds * rate_hz)).

    Each is the latest frame shown at t_i (pts * time_base <= t_i), the first frame where the video starts later.
    `size` (height, width) scales by area; `max_width` does so where a frame is wider, in its proportions, to an even
    height and width; rotation metadata is applied. MediaError: zero bytes, no video stream, one
    frame only, truncated (ends 0.5 s or more before its stated end), undecodable, over before the span begins.
    """
    if rate_hz <= 0:
        raise ValueError(f"rate_hz: expected a positive rate, got {rate_hz}")
    with _opened(path) as container:
        streams = _videos(container)
        if not streams:
            raise MediaError(path, "no video stream")
        start_s, length_s = _start_s(container), _length_s(container, path, span)
        times_s = span.start_s + (np.arange(max(1, round(length_s * rate_hz))) + 0.5) / rate_hz
        streams[0].thread_count = 1  # extraction runs one process a core
        convert = _converter(size, max_width)
        images: list[np.ndarray] = []
        shown, count, end_s = None, 0, 0.0
        _seek(container, start_s + span.start_s)
        for frame in container.decode(streams[0]):
            if frame.pts is None:
                continue
            time_s = float(frame.pts * frame.time_base) - start_s
            due = int(np.searchsorted(times_s, time_s - _ROUNDING_S)) - len(images)  # target times before this frame
            if shown is not None and due > 0:
                images.extend([convert(shown)] * due)
            shown, count = frame, count + 1
            end_s = time_s + float((frame.duration or 0) * frame.time_base)
            if time_s > times_s[-1]:
                break
        if shown is None:
            raise MediaError(path, "no frame could be decoded")
        if count == 1 and span.start_s == 0:
            raise MediaError(path, "one frame only")
        _check_end(path, "video", end_s, span.start_s + length_s)
        images.extend([convert(shown)] * (len(times_s) - len(images)))
        return np.stack(images)


def read_sound(path: str | Path, rate_hz: int, *, span: Span = WHOLE) -> Float32[np.ndarray, " S"]:
    """Mono waveform of the span, S = round(its seconds * rate_hz) samples, full scale = 1, silence where the stream has
    no sound.

    Several channels are mixed as FFmpeg does, so that their sum may exceed 1.

    MediaError: zero bytes, no sound stream, truncated, undecodable, over before the span begins.
    """
    import_av()
    from av.audio.resampler import AudioResampler

    with _opened(path) as container:
        if not container.streams.audio:
            raise MediaError(path, "no sound stream")
        stream = container.streams.audio[0]
        start_s, length_s = _start_s(container), _length_s(container, path, span)
        stop_s = span.start_s + length_s
        resampler = AudioResampler(format="flt", layout="mono", rate=rate_hz)
        first_s: float | None = None
        chunks: list[np.ndarray] = []
        _seek(container, start_s + span.start_s - _RUN_UP_S)
        for frame in container.decode(stream):
            time_s = float((frame.pts or 0) * frame.time_base) - start_s
            if first_s is None:
                first_s = time_s
            if time_s > stop_s:
                break
            chunks.extend(chunk.to_ndarray()[0] for chunk in resampler.resample(frame))
        if first_s is None or not chunks:
            raise MediaError(path, "no sound could be decoded")
        chunks.extend(chunk.to_ndarray()[0] for chunk in resampler.resample(None))
        samples = np.concatenate(chunks)
        if stream.duration is not None:
            stated_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_s
            _check_end(path, "sound", first_s + len(samples) / rate_hz, min(stated_s, stop_s))
    offset = round((first_s - span.start_s) * rate_hz)
    samples = samples[max(0, -offset) :]
    sound = np.zeros(max(1, round(length_s * rate_hz)), np.float32)
    target = sound[max(0, offset) :][: len(samples)]
    target[:] = samples[: len(target)]
    return sound


def write_clip(
    path: str | Path,
    frames: UInt8[np.ndarray, "n height width 3"],
    sound: Float[np.ndarray, " S"],
    *,
    frame_rate_hz: int,
    sound_rate_hz: int,
    video_options: Mapping[str, str] = FAST,
    sound_bits_per_s: int | None = None,
) -> None:
    """Writes RGB frames (even height and width) and a mono waveform in [-1, 1] as an H.264 + AAC .mp4.

    video_options: of x264, by FFmpeg's names. sound_bits_per_s: None leaves it to the encoder.

    The same arrays give the same bytes (one FFmpeg build, one thread). The file appears whole or not at all.
    """
    av = import_av()
    if len(frames) == 0 or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"frames: expected at least one frame of even height and width, got shape {frames.shape}")
    if len(sound) == 0:
        raise ValueError("sound: expected at least one sample, got none")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # bitexact: no version strings or dates, which would make equal clips differ
        with av.open(partial, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            video = container.add_stream("libx264", rate=frame_rate_hz, options=dict(video_options))
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.gop_size = frame_rate_hz
            audio = container.add_stream("aac", rate=sound_rate_hz, layout="mono", options={"aac_coder": "fast"})
            if sound_bits_per_s is not None:
                audio.bit_rate = sound_bits_per_s
            for stream in (video, audio):
                stream.thread_count = 1
                stream.codec_context.flags |= av.codec.context.Flags.bitexact
            for position, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame.pts, frame.time_base = position, Fraction(1, frame_rate_hz)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            samples = np.clip(sound, -1.0, 1.0).astype(np.float32)[None]
            chunk = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = sound_rate_hz, 0, Fraction(1, sound_rate_hz)
            container.mux(audio.encode(chunk))
            container.mux(audio.encode(None))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def import_av() -> ModuleType:
    """PyAV, or an ImportError that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading and writing media needs PyAV: pip install 'scav-jax[media]'") from error
    return av


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The open container; FFmpeg's and the file system's errors become a MediaError."""
    av = import_av()
    try:
        if os.path.getsize(path) == 0:
            raise MediaError(path, "zero bytes")
        # file: keeps FFmpeg from reading a name such as "http:x" or "concat:x" as a protocol
        with av.open(f"file:{path}") as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(path, f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from error


def _videos(container: Any) -> list[Any]:
    """Video streams without cover pictures."""
    from av.stream import Disposition

    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _start_s(container: Any) -> float:
    for stream in _videos(container)[:1]:
        if stream.start_time is not None:
            return float(stream.start_time * stream.time_base)
    return (container.start_time or 0) / _MICROSECONDS


def _duration_s(container: Any, path: str | Path) -> float:
    for stream in _videos(container)[:1]:
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
    if not container.duration:
        raise MediaError(path, "states no duration")
    duration_s = container.duration / _MICROSECONDS
    # FFmpeg writes the time of the end as a Matroska file's duration
    return duration_s - max(0.0, _start_s(container)) if "matroska" in container.format.name else duration_s


def _length_s(container: Any, path: str | Path, span: Span) -> float:
    rest_s = _duration_s(container, path) - span.start_s
    if rest_s <= 0:
        raise MediaError(path, f"over before the clip begins, at {span.start_s + rest_s:.2f} s of {span.start_s:.2f} s")
    return rest_s if span.length_s is None else min(rest_s, span.length_s)


def _seek(container: Any, time_s: float) -> None:
    """To a point at or before this time of the container, from which everything can be decoded."""
    if time_s > (container.start_time or 0) / _MICROSECONDS:
        container.seek(round(time_s * _MICROSECONDS), backward=True)


def _check_end(path: str | Path, what: str, end_s: float, stated_s: float) -> None:
    if stated_s - end_s >= _SLACK_S:
        raise MediaError(path, f"truncated: its {what} ends at {end_s:.2f} s of the stated {stated_s:.2f} s")


def _at_most(max_width: int | None, height: int, width: int) -> tuple[int, int]:
    if max_width is None or width <= max_width:
        return height, width
    return max(2, round(height * max_width / width / 2) * 2), max_width // 2 * 2


def _converter(size: tuple[int, int] | None, max_width: int | None) -> Callable[[Any], np.ndarray]:
    """Decoded frame -> upright RGB array; one scaler serves all frames, since making one costs more than using it."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()

    def convert(frame: Any) -> np.ndarray:
        turns = round(frame.rotation / 90)  # counter-clockwise
        side = -1 if turns % 2 else 1
        height, width = (size or _at_most(max_width, *(frame.height, frame.width)[::side]))[::side]
        image = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA").to_ndarray()
        return np.rot90(image, turns)

    return convert
