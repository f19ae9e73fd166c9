"""Folders of features on disk, in two layouts, and one pass over them that finds every bad file.

NpzFolder: FOLDER/<id>.npz with an array per modality. NpyFolders: one folder a modality, <id>.npy in each.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scav_jax.features.checks import find_problem
from scav_jax.features.clips import id_problem

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class NpzFolder:
    """<id>.npz files whose arrays are named by modality; the modalities are those that most files have."""

    modalities: tuple[str, ...] = ()  # not given

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.ids = _stems(self.path, ".npz")

    def file(self, clip_id: str, modality: str | None = None) -> Path:
        return self.path / f"{clip_id}.npz"

    def load(self, clip_id: str, modality: str | None = None) -> dict[str, np.ndarray]:
        """The clip's arrays by modality; one of _UNREADABLE where the file cannot be read. Pickles are refused."""
        with zipfile.ZipFile(self.file(clip_id)) as archive:
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(archive.open(name), allow_pickle=False)
                for name in archive.namelist()
            }


class NpyFolders:
    """modality -> folder of <id>.npy; clips are the stems in any folder, equal in all where nothing is missing."""

    def __init__(self, paths: Mapping[str, str | Path]):
        self.paths = {modality: Path(path) for modality, path in paths.items()}
        self.modalities = tuple(self.paths)
        stems = {modality: set(_stems(path, ".npy")) for modality, path in self.paths.items()}
        self.ids = sorted(set().union(*stems.values()))
        self._found_in = {clip_id: [name for name in stems if clip_id in stems[name]] for clip_id in self.ids}

    @property
    def unmatched(self) -> dict[str, list[str]]:
        """The modalities of every clip that has not all of them."""
        return {clip_id: found for clip_id, found in self._found_in.items() if len(found) < len(self.modalities)}

    def file(self, clip_id: str, modality: str | None = None) -> Path:
        """Of `modality`; without it, of the first that has the clip."""
        return self.paths[modality or self._found_in[clip_id][0]] / f"{clip_id}.npy"

    def load(self, clip_id: str, modality: str | None = None) -> dict[str, np.ndarray]:
        """As NpzFolder.load, of `modality` only where given; modalities without a file are left out."""
        return {
            name: _read_npy(self.file(clip_id, name))
            for name in self._found_in[clip_id]
            if modality is None or name == modality
        }


FeatureFolder = NpzFolder | NpyFolders
Shapes = dict[str, tuple[int, ...]]  # of a clip's features, by modality


@dataclass(frozen=True)
class Inspection:
    """Of a folder's clips: widths by modality, lengths by modality and id, and a line for every bad file."""

    widths: dict[str, int]
    lengths: dict[str, dict[str, int]]
    problems: list[str]


def inspect(folder: FeatureFolder, *, progress: bool = False) -> Inspection:
    """Reads every clip once. A modality's width is what most of the clips have.

    The modalities are the folder's where it gives them, else what at least half of the clips have; two are needed.
    """
    shapes, counts, num_read, problems = _read(folder, progress)
    modalities = sorted(folder.modalities or (modality for modality, count in counts.items() if 2 * count >= num_read))
    widths = {
        modality: Counter(sizes).most_common(1)[0][0]
        for modality in modalities
        if (sizes := [found[modality][1] for found in shapes.values() if modality in found])
    }
    for clip_id, found in shapes.items():
        for modality in sorted(found.keys() & set(modalities)):
            if found[modality][1] != widths[modality]:
                name = str(folder.file(clip_id, modality))
                problems[name] = f"{modality}: expected width {widths[modality]}, got {found[modality][1]}"
    if isinstance(folder, NpyFolders):
        problems |= {clip_id: f"in {' and '.join(found)} only" for clip_id, found in folder.unmatched.items()}
    elif len(modalities) < 2 and num_read:
        found_most = f"{modalities[0]} only" if modalities else "no name in common"
        problems[str(folder.path)] = (
            f"expected arrays of two modalities (visual and audio) in every file, most have {found_most}"
        )
    else:
        _add_incomplete(problems, folder, shapes, modalities)
    lengths = {
        modality: {clip_id: found[modality][0] for clip_id, found in shapes.items() if modality in found}
        for modality in modalities
    }
    return Inspection(widths, lengths, [f"{name}: {problem}" for name, problem in sorted(problems.items())])


def _read(folder: FeatureFolder, progress: bool) -> tuple[dict[str, Shapes], Counter[str], int, dict[str, str]]:
    """The shapes of every clip's usable features, how often each modality is there in how many files that could be
    read, and the problems by file."""
    shapes: dict[str, Shapes] = {}
    counts, num_read = Counter[str](), 0
    problems: dict[str, str] = {}
    for clip_id in tqdm(folder.ids, unit="clip", desc="checking", disable=not progress):
        if problem := id_problem(clip_id):
            problems[str(folder.file(clip_id))] = problem
            continue
        shapes[clip_id] = {}
        for part in folder.modalities or (None,):
            try:
                arrays = folder.load(clip_id, part)
            except _UNREADABLE as error:
                reason = " ".join(str(error).split())
                problems[str(folder.file(clip_id, part))] = f"expected NumPy arrays, cannot be read: {reason}"
                continue
            num_read += 1
            counts.update(arrays.keys())
            for modality, features in arrays.items():
                if problem := find_problem(features):
                    problems[str(folder.file(clip_id, modality))] = f"{modality}: {problem}"
                else:
                    shapes[clip_id][modality] = features.shape
    return shapes, counts, num_read, problems


def _add_incomplete(
    problems: dict[str, str], folder: NpzFolder, shapes: Mapping[str, Shapes], modalities: Sequence[str]
) -> None:
    """Files that lack a modality, or have another one as well."""
    expected = " and ".join(modalities)
    for clip_id, found in shapes.items():
        name = str(folder.file(clip_id))
        for modality in sorted(set(modalities) - found.keys()):
            problems.setdefault(name, f"expected {expected}, {modality} is missing")
        for modality in sorted(found.keys() - set(modalities)):
            problems[name] = f"expected {expected}, got {modality!r} as well"


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _stems(path: Path, suffix: str) -> list[str]:
    if not path.is_dir():
        raise ValueError(f"features: expected a folder of {suffix} files, got {path}")
    stems = sorted(file.stem for file in path.glob(f"*{suffix}") if not file.name.startswith("."))
    if not stems:
        raise ValueError(f"features: expected {suffix} files in {path}, found none")
    return stems
