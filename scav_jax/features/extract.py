"""Media -> features: one OUT/<id>.npz a clip with an array per modality, resumable, bad files named and left out.

python -m scav_jax.features.extract --media MEDIA --out OUT
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scav_jax.features.checks import FeatureError, find_problem
from scav_jax.features.extractors import Extractor, describe, extractor_names, make_extractor
from scav_jax.features.media import MediaError, import_av

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".3gp", ".ogv", ".ts", ".wmv")
RECORD = "extraction.json"


@dataclass
class Report:
    """What one extraction did; `bad` maps each failed file to its reason."""

    num_extracted: int = 0
    num_resumed: int = 0
    bad: dict[Path, str] = field(default_factory=dict)


def extract(
    media_dir: str | Path,
    out_dir: str | Path,
    extractors: Sequence[Extractor],
    *,
    num_workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Extracts every media file below `media_dir` whose <id>.npz is not in `out_dir` yet; id = file stem.

    A file that fails is one line on stderr and in out_dir/skipped.csv; the others go on, even where a decoder crashes.
    A clip's .npz appears whole or not at all. out_dir/extraction.json keeps extractors, rates and decoder.
    `num_workers` processes (default: one a core; 0: none, in this process). ValueError: no media, or an `out_dir` of
    other settings.
    """
    out_dir = Path(out_dir)
    paths = _media_files(Path(media_dir))
    out_dir.mkdir(parents=True, exist_ok=True)
    _keep_record(out_dir, _record(extractors))
    for partial in out_dir.glob(".*.partial"):
        partial.unlink()
    todo = [path for path in paths if not (out_dir / f"{path.stem}.npz").exists()]
    report = Report(num_resumed=len(paths) - len(todo))
    results = _in_processes(todo, out_dir, extractors, (os.cpu_count() or 1) if num_workers is None else num_workers)
    for path, problem in tqdm(results, total=len(todo), unit="clip", disable=not progress):
        if problem is None:
            report.num_extracted += 1
        else:
            report.bad[path] = problem
            tqdm.write(f"{path}: {problem}", file=sys.stderr)
    _write_skipped(out_dir / "skipped.csv", report.bad)
    return report


def read_record(features_dir: str | Path) -> dict[str, Any] | None:
    """The extraction.json of a features folder, None where it has none; FeatureError where it is not one of extract."""
    path = Path(features_dir) / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's and UTF-8's
        raise FeatureError([f"{path}: expected a JSON object, cannot be read: {error}"]) from error
    if not _is_record(record):
        raise FeatureError(
            [
                f"{path}: expected decoder, and modalities with width, rate_hz and extractor each, as "
                f"scav_jax.features.extract writes them, got {json.dumps(record)[:200]}"
            ]
        )
    return record


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and "decoder" in record
        and isinstance(record.get("modalities"), dict)
        and all(
            isinstance(entry, dict)
            and "extractor" in entry
            and isinstance(entry.get("width"), int)
            and isinstance(entry.get("rate_hz"), int | float)
            for entry in record["modalities"].values()
        )
    )


def _media_files(media_dir: Path) -> list[Path]:
    if not media_dir.is_dir():
        raise ValueError(f"media: expected a folder, got {media_dir}")
    paths = sorted(
        path for path in media_dir.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(f"media: expected files {', '.join(SUFFIXES)} below {media_dir}, found none")
    by_id: dict[str, Path] = {}
    for path in paths:
        if (other := by_id.setdefault(path.stem, path)) is not path:
            raise ValueError(f"media: expected one file a stem, got {other} and {path}")
    return paths


def _record(extractors: Sequence[Extractor]) -> dict[str, Any]:
    av = import_av()
    libraries = {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())}
    return {
        "format": 1,
        "modalities": {
            extractor.modality: {
                "width": extractor.width,
                "rate_hz": extractor.rate_hz,
                "extractor": describe(extractor),
            }
            for extractor in extractors
        },
        "decoder": {"pyav": av.__version__, **libraries},
    }


def _keep_record(out_dir: Path, record: Mapping[str, Any]) -> None:
    kept = read_record(out_dir)
    if kept is None:
        if any(out_dir.glob("*.npz")):
            raise ValueError(f"{out_dir}: holds features of unknown settings (no {RECORD}); choose another folder")
        _write_whole(out_dir / RECORD, json.dumps(record, indent=2).encode())
        return
    for key in ("modalities", "decoder"):
        if kept[key] != record[key]:
            raise ValueError(
                f"{out_dir}: was extracted with other {key}; expected {json.dumps(kept[key])}, "
                f"got {json.dumps(record[key])}; choose another folder"
            )


def _extract_one(path: Path, out_dir: Path, extractors: Sequence[Extractor]) -> str | None:
    """Writes one clip's .npz; what is wrong with the file otherwise."""
    features = {}
    for extractor in extractors:
        try:
            features[extractor.modality] = extractor(extractor.read(path))
        except MediaError as error:
            return error.reason
        except ImportError:  # a missing package is no fault of the file
            raise
        except Exception as error:  # whatever an odd file brings out in a decoder costs that file only
            return f"{type(error).__name__}: {error}".splitlines()[0]
        if problem := find_problem(features[extractor.modality]):
            return f"{extractor.modality} features: {problem}"
    partial = out_dir / f".{path.stem}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        np.savez(file, **features)  # type: ignore[arg-type]
    os.replace(partial, out_dir / f"{path.stem}.npz")
    return None


def _in_processes(
    todo: Sequence[Path], out_dir: Path, extractors: Sequence[Extractor], num_workers: int
) -> Iterator[tuple[Path, str | None]]:
    """(path, problem or None) of every file, as they finish."""
    if num_workers == 0:
        yield from ((path, _extract_one(path, out_dir, extractors)) for path in todo)
        return
    rest = list(todo)
    while rest:
        unfinished = set(rest)
        with _pool(num_workers) as pool:
            try:
                futures = {pool.submit(_extract_one, path, out_dir, extractors): path for path in rest}
                for future in as_completed(futures):
                    if not isinstance(future.exception(), BrokenProcessPool):
                        unfinished.discard(futures[future])
                        yield futures[future], future.result()
            finally:  # an error or Ctrl-C ends the run now, not after the queue
                pool.shutdown(cancel_futures=True)
        # A worker died and took the pool along. Its file is among the first unfinished ones: these go one by one.
        rest = [path for path in rest if path in unfinished]
        suspects, rest = rest[: 2 * num_workers + 1], rest[2 * num_workers + 1 :]
        for path in suspects:
            with _pool(1) as pool:
                future = pool.submit(_extract_one, path, out_dir, extractors)
                crashed = isinstance(future.exception(), BrokenProcessPool)
                yield path, "the decoder crashed" if crashed else future.result()


def _pool(num_workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"))


def _write_skipped(path: Path, bad: Mapping[Path, str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "reason"])
        writer.writerows((str(name), reason) for name, reason in bad.items())


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scav_jax.features.extract", description=__doc__.splitlines()[0])
    parser.add_argument("--media", required=True, help="folder of media files, searched with its subfolders")
    parser.add_argument("--out", required=True, help="folder for <id>.npz; run again, it resumes")
    parser.add_argument("--visual", default="pixels", choices=extractor_names("visual"))
    parser.add_argument("--audio", default="logmel", choices=extractor_names("audio"))
    parser.add_argument("--visual-rate-hz", type=float, help="frames a second (default: the extractor's)")
    parser.add_argument("--audio-rate-hz", type=float, help="steps a second (default: the extractor's)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--max-bad", type=int, default=0, help="exit 0 with up to so many bad files")
    options = parser.parse_args(arguments)
    # One process a core: BLAS threads on top of them only fight for the cores. The workers inherit it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        extractors = [
            make_extractor(name, **({} if rate_hz is None else {"rate_hz": rate_hz}))
            for name, rate_hz in (
                (options.visual, options.visual_rate_hz),
                (options.audio, options.audio_rate_hz),
            )
        ]
        report = extract(options.media, options.out, extractors, num_workers=options.workers)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{report.num_extracted} extracted, {report.num_resumed} there before, {len(report.bad)} bad: {options.out}")
    if len(report.bad) > options.max_bad:
        print(f"error: {len(report.bad)} bad files (see {options.out}/skipped.csv)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
