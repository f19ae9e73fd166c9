"""Folders of features on disk, in two layouts, and one pass over them that finds every bad file.

NpzFolder: FOLDER/<id>.npz with an array per modality. NpyFolders: one folder a modality, <id>.npy in each.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scav_jax.features.checks import find_problem
from scav_jax.features.clips import id_problem

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class NpzFolder:
    """<id>.npz files whose arrays are named by modality; the modalities are those that most files have."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.ids = _stems(self.path, ".npz")

    def file(self, clip_id: str, modality: str | None = None) -> Path:
        return self.path / f"{clip_id}.npz"

    def load(self, clip_id: str) -> dict[str, np.ndarray]:
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
        stems = [_stems(path, ".npy") for path in self.paths.values()]
        self.ids = sorted(set().union(*stems))

    def file(self, clip_id: str, modality: str | None = None) -> Path:
        return self.paths[modality or next(iter(self.paths))] / f"{clip_id}.npy"

    def load(self, clip_id: str) -> dict[str, np.ndarray]:
        """As NpzFolder.load; modalities without a file are left out."""
        files = {modality: self.file(clip_id, modality) for modality in self.paths}
        return {modality: _read_npy(file) for modality, file in files.items() if file.exists()}


FeatureFolder = NpzFolder | NpyFolders


@dataclass(frozen=True)
class Inspection:
    """Of a folder's clips: widths by modality, lengths by modality and id, and a line for every bad file."""

    widths: dict[str, int]
    lengths: dict[str, dict[str, int]]
    problems: list[str]


def inspect(folder: FeatureFolder, *, progress: bool = False) -> Inspection:
    """Reads every clip once. A modality is what at least half of the clips have, its width what most of them have."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    problems: dict[Path, str] = {}
    for clip_id in tqdm(folder.ids, unit="clip", desc="checking", disable=not progress):
        if problem := id_problem(clip_id):
            problems[folder.file(clip_id)] = problem
            continue
        try:
            arrays = folder.load(clip_id)
        except _UNREADABLE as error:
            problems[folder.file(clip_id)] = f"expected NumPy arrays, cannot be read: {' '.join(str(error).split())}"
            continue
        shapes[clip_id] = {modality: features.shape for modality, features in arrays.items()}
        for modality, features in arrays.items():
            if problem := find_problem(features):
                problems[folder.file(clip_id, modality)] = f"{modality}: {problem}"
                del shapes[clip_id][modality]
    counts = Counter(modality for found in shapes.values() for modality in found)
    modalities = [modality for modality, count in sorted(counts.items()) if 2 * count >= len(shapes)]
    widths = {
        modality: Counter(found[modality][1] for found in shapes.values() if modality in found).most_common(1)[0][0]
        for modality in modalities
    }
    for clip_id, found in shapes.items():
        for modality in modalities:
            file = folder.file(clip_id, modality)
            if modality not in found:
                problems.setdefault(file, f"expected {' and '.join(modalities)}, {modality} is missing")
            elif found[modality][1] != widths[modality]:
                problems[file] = f"{modality}: expected width {widths[modality]}, got {found[modality][1]}"
        for modality in found.keys() - set(modalities):
            problems[folder.file(clip_id, modality)] = f"expected {' and '.join(modalities)}, got {modality!r} as well"
    lengths = {
        modality: {clip_id: found[modality][0] for clip_id, found in shapes.items() if modality in found}
        for modality in modalities
    }
    return Inspection(widths, lengths, [f"{file}: {problem}" for file, problem in sorted(problems.items())])


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
