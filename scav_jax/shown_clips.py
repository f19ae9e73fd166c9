"""What a page can show of clips: their media, found by id, as pictures and films within the page."""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from scav_jax.alignment_picture import alignment_picture
from scav_jax.features.media import MediaError
from scav_jax.film import clip_picture
from scav_jax.results import Run

PICTURE_WIDTH = 420
MEDIA_SUFFIX = ".mp4"


class ShownClips:
    """files: the media of the runs' stores, by id. Ids select among the files found and are never made into a path.

    note: why there are none, for the reader. What cannot be shown is None.
    """

    def __init__(self, runs: Sequence[Run]):
        folders = {Path(run.retrieved["media"]) for run in runs if run.retrieved.get("media")}
        self.files = {
            path.stem: path for folder in sorted(folders) for path in sorted(folder.rglob(f"*{MEDIA_SUFFIX}"))
        }
        self.note = ""
        self._pictures: dict[str, str | None] = {}
        if not folders:
            self.note = "The store names no media folder, so the clips are shown by id alone."
        elif not self.files:
            listed = ", ".join(map(str, sorted(folders)))
            self.note = f"No {MEDIA_SUFFIX} files were found under {listed}, so the clips are shown by id alone."

    def picture(self, clip_id: str) -> str | None:
        """Film strip, movement and spectrogram of a clip."""
        if clip_id not in self._pictures:
            self._pictures[clip_id] = self.drawn(
                lambda path: clip_picture(path, width=PICTURE_WIDTH, image_format="JPEG"), clip_id
            )
        return self._pictures[clip_id]

    def alignment(self, seen: str, heard: str, weights: Sequence[Sequence[int]]) -> str | None:
        """Two clips laid over each other."""
        matrix = np.array(weights, float)
        draw = partial(alignment_picture, alignment=matrix, width=PICTURE_WIDTH)
        return self.drawn(draw, seen, heard)

    def drawn(self, draw: Callable[..., bytes], *clip_ids: str, kind: str = "image/jpeg") -> str | None:
        """What `draw` makes of the clips' files, as a data URI."""
        if any(clip_id not in self.files for clip_id in clip_ids):
            return None
        try:
            encoded = draw(*(self.files[clip_id] for clip_id in clip_ids))
        except (MediaError, ImportError):  # without PyAV the clip is shown by its id
            return None
        return f"data:{kind};base64,{base64.b64encode(encoded).decode()}"
