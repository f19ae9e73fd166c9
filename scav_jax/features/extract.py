"""Media -> features: one OUT/<id>.npz a clip with an array per modality, resumable, bad files named and left out.

python -m scav_jax.features.extract --media MEDIA --out OUT [--visual=clip --clip-weights=FILE ...]
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from scav_jax import files
from scav_jax.features import health, workers
from scav_jax.features.checks import FeatureError, find_problem, report
from scav_jax.features.extractors import Extractor, describe, has_network
from scav_jax.features.flags import add_extractor_flags, extractors_of
from scav_jax.features.listing import Item, cut, list_media, share
from scav_jax.features.media import TIMESTAMPS, MediaError, import_av

RECORD = "extraction.json"
_AHEAD = 2  # clips a worker that are decoded before anyone asks for them


@dataclass
class Report:
    """What one extraction did; `bad` maps each clip that failed, by id, to its file and the reason."""

    num_extracted: int = 0
    num_resumed: int = 0
    bad: dict[str, tuple[Path, str]] = field(default_factory=dict)


class Found(NamedTuple):
    """What a worker has of a clip, by modality: its features, or what a network computes them of; and its health."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What to extract of the media, and which share of it is this host's."""

    length_s: float | None = None  # at most so much of each clip
    cut: bool = False  # files into consecutive clips of length_s
    host: int = 0
    hosts: int = 1

    def __post_init__(self) -> None:
        if self.length_s is not None and not 0 < self.length_s < float("inf"):
            raise ValueError(f"clip length: expected seconds above 0, got {self.length_s:g}")
        if self.cut and (self.length_s is None or self.length_s != int(self.length_s)):  # ids have whole seconds
            raise ValueError(f"cut: expected a clip length of whole seconds to cut to, got {self.length_s}")

    def items(self, media: str | Path) -> tuple[list[Item], dict[str, tuple[Path, str]]]:
        """This host's clips, and what cannot even be cut."""
        if not self.cut:
            return share(list_media(media, self.length_s), self.host, self.hosts), {}
        whole = share(list_media(media), self.host, self.hosts)
        assert self.length_s is not None
        parts, bad = cut(whole, self.length_s)
        return parts, {item.id: (item.path, bad[item.id]) for item in whole if item.id in bad}

    def name(self, stem: str, suffix: str) -> str:
        """Of a file that each host has for itself."""
        return f"{stem}{suffix}" if self.hosts == 1 else f"{stem}-{self.host}-of-{self.hosts}{suffix}"


def extract(
    media: str | Path,
    out_dir: str | Path,
    extractors: Sequence[Extractor],
    *,
    encoders: Mapping[str, Any] | None = None,
    task: Task = Task(),
    num_workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Extracts every clip of `media` (a folder or a list, see list_media) whose <id>.npz is not in `out_dir` yet.

    A clip that fails is one line on stderr and in out_dir/skipped.csv; the others go on, even where a decoder crashes.
    A clip's .npz appears whole or not at all. out_dir/extraction.json keeps extractors, rates and decoder,
    out_dir/health.jsonl facts of every clip. `encoders`: of each modality whose extractor has a network, what
    networks.load made of it. `num_workers` processes decode (default: one a core; 0: none, this one does), while the
    networks compute. ValueError: no media, or an `out_dir` of other settings.
    """
    out_dir, encoders = Path(out_dir), dict(encoders or {})
    items, bad = task.items(media)
    _keep_record(out_dir, _record(extractors, task))
    todo = [item for item in items if not (out_dir / f"{item.id}.npz").exists()]
    done = Report(num_resumed=len(items) - len(todo), bad=bad)
    for _, (path, reason) in bad.items():
        tqdm.write(f"{path}: {reason}", file=sys.stderr)
    num_workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    known = health.read_lines(out_dir / task.name("health", ".jsonl"))
    lines = files.Lines(out_dir / task.name("health", ".jsonl"), known)
    together = max((encoder.together for encoder in encoders.values()), default=1)
    results = workers.run(
        partial(_read, extractors=extractors), todo, num_workers=num_workers, ahead=_AHEAD * num_workers + together
    )
    with tqdm(total=len(todo), unit="clip", disable=not progress) as bar:
        while group := list(islice(results, together)):
            good, failed = _encode(group, encoders)
            for item, found in good.items():
                lines.add(health.line(item.id, found.facts))
                content = io.BytesIO()
                np.savez(content, **found.arrays)  # type: ignore[arg-type]
                files.write_whole(out_dir / f"{item.id}.npz", content.getvalue())
                done.num_extracted += 1
            for item, problem in failed.items():
                done.bad[item.id] = item.path, problem
                tqdm.write(f"{item.path}: {problem}", file=sys.stderr)
            bar.update(len(group))
    lines.close()
    _write_skipped(out_dir / task.name("skipped", ".csv"), done.bad)
    return done


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


def _record(extractors: Sequence[Extractor], task: Task) -> dict[str, Any]:
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
        "decoder": {"pyav": av.__version__, **libraries, "timestamps": TIMESTAMPS},
        "clips": {"length_s": task.length_s, "cut": task.cut},
    }


def _keep_record(out_dir: Path, record: Mapping[str, Any]) -> None:
    with files.alone_in(out_dir):  # other hosts may begin now
        kept = read_record(out_dir)
        if kept is None:
            if any(out_dir.glob("*.npz")):
                raise ValueError(f"{out_dir}: holds features of unknown settings (no {RECORD}); choose another folder")
            files.write_whole(out_dir / RECORD, json.dumps(record, indent=2))
            return
    for key in ("modalities", "decoder", "clips"):
        if kept.get(key) != record[key]:
            raise ValueError(
                f"{out_dir}: was extracted with other {key}; expected {json.dumps(kept.get(key))}, "
                f"got {json.dumps(record[key])}; choose another folder"
            )


def _read(item: Item, extractors: Sequence[Extractor]) -> Found | str:
    """What is in one clip, in a worker process; what is wrong with it otherwise."""
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    for extractor in extractors:
        try:
            media = extractor.read(item.path, item.span)
            facts |= health.measure(media, getattr(extractor, "sample_rate_hz", extractor.rate_hz))
            arrays[extractor.modality] = media if has_network(extractor) else extractor(media)  # type: ignore[operator]
        except MediaError as error:
            return error.reason
        except ImportError:  # a missing package is no fault of the file
            raise
        except Exception as error:  # whatever an odd file brings out in a decoder costs that file only
            return f"{type(error).__name__}: {error}".splitlines()[0]
        # A muted clip makes a network's features vary all the same.
        media_varies = media.min() < media.max()
        if not media_varies and has_network(extractor):
            return f"{extractor.modality}: expected media that vary, got {media.flat[0]:g} throughout"
    return Found(arrays, facts)


def _encode(
    group: Sequence[tuple[Item, Found | str | workers.Crashed]], encoders: Mapping[str, Any]
) -> tuple[dict[Item, Found], dict[Item, str]]:
    """The features of clips, a network's computed of all of them together, and of the others why they have none."""
    found = {item: result for item, result in group if isinstance(result, Found)}
    failed = {
        item: "the decoder crashed" if isinstance(result, workers.Crashed) else result
        for item, result in group
        if not isinstance(result, Found)
    }
    for name, encode in encoders.items() if found else ():
        encoded = encode([result.arrays[name] for result in found.values()])
        for result, features in zip(found.values(), encoded, strict=True):
            result.arrays[name] = features
    problems = {item: problem for item, result in found.items() if (problem := _find_problem(result.arrays))}
    return {item: result for item, result in found.items() if item not in problems}, {**failed, **problems}


def _find_problem(features: Mapping[str, np.ndarray]) -> str | None:
    for modality, array in features.items():
        if problem := find_problem(array):
            return f"{modality} features: {problem}"
    return None


def _write_skipped(path: Path, bad: Mapping[str, tuple[Path, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "file", "reason"])
        writer.writerows((clip_id, str(name), reason) for clip_id, (name, reason) in bad.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit status, as --help lists them."""
    parser = argparse.ArgumentParser(
        prog="python -m scav_jax.features.extract",
        description=__doc__.splitlines()[0],
        epilog="Exit code: 0 where all clips were extracted but --max-bad, 1 where more are bad or nothing could be "
        "done, 2 for wrong flags. docs/encoders.md describes networks and their weights.",
    )
    parser.add_argument(
        "--media", required=True, help="folder of media files, searched with its subfolders, or a .csv: file[,id,...]"
    )
    parser.add_argument("--out", required=True, help="folder for <id>.npz; run again, it resumes")
    add_extractor_flags(parser)
    parser.add_argument("--clip-s", type=float, help="take at most so many seconds of each file, from its start")
    parser.add_argument("--cut", action="store_true", help="cut each file into consecutive clips of --clip-s seconds")
    parser.add_argument("--slice", default="0/1", metavar="I/N", help="of N hosts, this is the I-th, from 0 on")
    parser.add_argument("--workers", type=int, help="processes that decode (default: one a core)")
    parser.add_argument("--max-bad", type=int, default=0, help="exit 0 with up to so many bad clips")
    options = parser.parse_args(arguments)
    # One process a core: BLAS threads on top of them only fight for the cores. The workers inherit it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        host, hosts = (int(number) for number in options.slice.split("/"))
    except ValueError:
        parser.error(f"--slice: expected I/N, got {options.slice}")
    try:
        task = Task(options.clip_s, options.cut, host, hosts)
        extractors, encoders = extractors_of(options)
        done = extract(
            options.media, options.out, extractors, encoders=encoders, task=task, num_workers=options.workers
        )
    except (ValueError, ImportError, OSError) as error:
        return report(error)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{done.num_extracted} extracted, {done.num_resumed} there before, {len(done.bad)} bad: {options.out}")
    if len(done.bad) > options.max_bad:
        print(f"error: {len(done.bad)} bad files (see {options.out}/{task.name('skipped', '.csv')})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
