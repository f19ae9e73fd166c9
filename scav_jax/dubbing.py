"""The picture of one clip with the sound of another as a small film, to see and hear whether they go together."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from scav_jax.film import FRAME_WIDTH, encode_picture, frame_changes

MAX_S = 10.0
FRAME_RATE_HZ, SOUND_RATE_HZ = 20, 16_000
# A ceiling on the rate, so that however lively the clips are, a page of 30 films stays below 20 MB.
VIDEO_BITS_PER_S, SOUND_BITS_PER_S = 250_000, 32_000
VIDEO_OPTIONS = {
    "preset": "veryfast",
    "crf": "28",
    "maxrate": str(VIDEO_BITS_PER_S),
    "bufsize": str(VIDEO_BITS_PER_S),
}


def dubbed(seen: Path, heard: Path) -> bytes:
    """The film of `seen` with the sound of `heard` from its start, as an .mp4 (H.264, AAC): at most MAX_S long.

    It lasts as long as the picture: a longer sound is cut, a shorter one followed by silence. MediaError where a file
    cannot be decoded. Source: our choice.
    """
    from scav_jax.features import media

    span = media.Span(length_s=MAX_S)
    frames = media.read_frames(seen, float(FRAME_RATE_HZ), max_width=FRAME_WIDTH, span=span)
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    sound = media.read_sound(heard, SOUND_RATE_HZ, span=span)
    fitted = np.zeros(len(frames) * SOUND_RATE_HZ // FRAME_RATE_HZ, np.float32)
    fitted[: len(sound)] = sound[: len(fitted)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dubbed.mp4"
        media.write_clip(
            path,
            frames,
            fitted,
            frame_rate_hz=FRAME_RATE_HZ,
            sound_rate_hz=SOUND_RATE_HZ,
            video_options=VIDEO_OPTIONS,
            sound_bits_per_s=SOUND_BITS_PER_S,
        )
        return path.read_bytes()


def still(seen: Path) -> bytes:
    """The liveliest frame of a film as a JPEG, to stand in its place until it is played."""
    from PIL import Image

    from scav_jax.features import media

    frames = media.read_frames(seen, float(FRAME_RATE_HZ), max_width=FRAME_WIDTH, span=media.Span(length_s=MAX_S))
    return encode_picture(Image.fromarray(frames[frame_changes(frames).mean(axis=1).argmax()]), "JPEG")
