"""The TFDS side of a store: one builder for any modalities, written and read without TensorFlow.

Import lazily: it imports tensorflow_datasets.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from scav_jax.features.clips import Clip

FOLDER = Path("clips", "1.0.0")  # TFDS files in a store: builder name, version


class Clips(tfds.core.GeneratorBasedBuilder):
    """Clips in the order given: facts as text, features as float16 (length, width) tensors stored as bytes."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None  # nothing beside this file describes the data set

    def __init__(
        self,
        splits: Mapping[str, Sequence[Clip]],
        widths: Mapping[str, int],
        load: Callable[[str], Mapping[str, np.ndarray]],
        **options: Any,
    ):
        self._splits, self._widths, self._load = splits, widths, load
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        facts = {name: tfds.features.Text() for name in ("id", "label", "group", "subset")}
        features = {
            # encoding: without it TFDS keeps float16 as float32
            modality: tfds.features.Tensor(shape=(None, width), dtype=np.float16, encoding="bytes")
            for modality, width in self._widths.items()
        }
        # Shuffling happens in the pipeline; index i of a split is its i-th clip for good.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({**facts, **features}), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(clips) for split, clips in self._splits.items()}

    def _generate_examples(self, clips: Sequence[Clip]) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, clip in enumerate(clips):
            arrays = self._load(clip.id)
            features = {modality: arrays[modality].astype(np.float16) for modality in self._widths}
            yield position, {"id": clip.id, "label": clip.label, "group": clip.group, "subset": clip.subset, **features}


def write(
    store_dir: Path,
    splits: Mapping[str, Sequence[Clip]],
    widths: Mapping[str, int],
    load: Callable[[str], Mapping[str, np.ndarray]],
) -> None:
    """Writes the TFDS files into store_dir / FOLDER."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        Clips(splits, widths, load, data_dir=store_dir, file_format="array_record").download_and_prepare()
    for empty in ("downloads/extracted", "downloads"):
        (store_dir / empty).rmdir()


def read(store_dir: Path) -> Any:
    """The TFDS builder of a store's files."""
    return tfds.builder_from_directory(store_dir / FOLDER)


def shards(split_info: Any) -> list[tuple[Path, range]]:
    """A split's shards and the positions of their clips, in order."""
    ends = np.cumsum(split_info.shard_lengths).tolist()
    lengths = zip(split_info.filepaths, split_info.shard_lengths, ends, strict=True)
    return [(Path(path), range(end - length, end)) for path, length, end in lengths]
