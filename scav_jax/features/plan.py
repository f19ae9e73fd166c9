"""What a store will hold, decided before anything is written: the clips by split, the checks, the ledger."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scav_jax.features import health
from scav_jax.features.checks import FeatureError, read_table
from scav_jax.features.clips import COLUMNS, SPLIT_RULE, SPLITS, Clip, ids_sha256, read_clips, split_by_group
from scav_jax.features.extract import read_record
from scav_jax.features.folders import FeatureFolder, Inspection, NpyFolders, NpzFolder, inspect

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """A store to be: `splits` in the order they are written (by id), and its ledger."""

    folder: FeatureFolder
    inspection: Inspection
    splits: dict[str, list[Clip]]
    ledger: dict[str, Any]


def plan_store(
    features: str | Path | Mapping[str, str | Path],
    clips_csv: str | Path | Sequence[Clip] | None = None,
    *,
    name: str = "own",
    rates_hz: Mapping[str, float] | None = None,
    media: str | Path | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Plan:
    """Checks a folder of <id>.npz, or one folder of <id>.npy per modality, and what a store of it would hold.

    `clips_csv` gives splits, labels, groups and subsets, or is the clips themselves; without it (or without its split
    column) SPLIT_RULE splits. Rates and extractors come from the folder's extraction.json where it has one, else rates
    from `rates_hz`. `media` is the folder of the clips' video files, `facts` what else the ledger is to say. Raises one
    FeatureError that lists every bad file and every clip without features or without a row in the table.
    """
    folder: FeatureFolder = NpyFolders(features) if isinstance(features, Mapping) else NpzFolder(features)
    if clips_csv is None:
        clips = split_by_group(Clip(clip_id, "train") for clip_id in folder.ids)
    else:
        clips = read_clips(clips_csv) if isinstance(clips_csv, str | Path) else list(clips_csv)
    inspection = inspect(folder, progress=progress)
    listed, found = {clip.id for clip in clips}, set(folder.ids)
    problems = [
        *inspection.problems,
        *(f"{clips_csv}: {clip_id!r} has no features" for clip_id in sorted(listed - found)),
        *(f"{folder.file(clip_id)}: has no row in {clips_csv}" for clip_id in sorted(found - listed)),
    ]
    if problems:
        raise FeatureError(problems)
    splits = {
        split: members
        for split in SPLITS
        if (members := sorted((clip for clip in clips if clip.split == split), key=lambda clip: clip.id))
    }
    record = None if isinstance(features, Mapping) else read_record(features)
    ledger = {
        "format": FORMAT,
        "dataset": name,
        "modalities": _modalities(inspection, record, rates_hz or {}),
        "splits": {split: len(members) for split, members in splits.items()},
        "ids_sha256": {split: ids_sha256([clip.id for clip in members]) for split, members in splits.items()},
        "split_rule": "given" if _gives_splits(clips_csv) else SPLIT_RULE,
        "decoder": record["decoder"] if record else None,
        "media": None if media is None else str(media),
        "health": None if isinstance(features, Mapping) else _health(features, splits, record),
        **(facts or {}),
    }
    return Plan(folder, inspection, splits, ledger)


def describe_plan(plan: Plan) -> str:
    """Counts, widths, lengths and bytes as lines of text."""
    ledger = plan.ledger
    lines = [f"data set {ledger['dataset']}, splits {ledger['split_rule']}"]
    for split in SPLITS:
        members = plan.splits.get(split, [])
        subsets = Counter(clip.subset for clip in members if clip.subset)
        named = "".join(f", {subset}: {count}" for subset, count in sorted(subsets.items()))
        lines.append(f"{split}: {len(members)} clips{named}")
    num_bytes = 0
    for modality, entry in ledger["modalities"].items():
        lengths = sorted(plan.inspection.lengths[modality].values())
        num_bytes += 2 * entry["width"] * sum(lengths)
        lines.append(
            f"{modality}: width {entry['width']}, {entry['rate_hz']:g} Hz, lengths {lengths[0]} (min) "
            f"{lengths[len(lengths) // 2]} (median) {lengths[-1]} (max)"
        )
    if ledger["health"]:
        lines.append(health.describe(ledger["health"]))
    return "\n".join([*lines, f"about {num_bytes / 1e6:.3g} MB"])


def _health(
    features: str | Path, splits: Mapping[str, Sequence[Clip]], record: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The report of what the extraction measured, None where it measured nothing."""
    facts = health.read(features)
    length_s = (record or {}).get("clips", {}).get("length_s")
    ids = {split: [clip.id for clip in members] for split, members in splits.items()}
    return health.report(facts, ids, length_s) if facts else None


def _gives_splits(clips_csv: str | Path | Sequence[Clip] | None) -> bool:
    if not isinstance(clips_csv, str | Path):
        return clips_csv is not None
    return "split" in read_table(Path(clips_csv), COLUMNS, "id")[0]


def _modalities(
    inspection: Inspection, record: Mapping[str, Any] | None, rates_hz: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    entries = {}
    for modality, width in inspection.widths.items():
        recorded = record["modalities"].get(modality) if record else None
        rate_hz = rates_hz.get(modality, recorded["rate_hz"] if recorded else None)
        if rate_hz is None or not math.isfinite(rate_hz) or rate_hz <= 0:
            raise ValueError(f"{modality} rate_hz: expected the features' positive rate, got {rate_hz}")
        if recorded and (recorded["width"], recorded["rate_hz"]) != (width, rate_hz):
            raise ValueError(
                f"{modality}: expected width and rate_hz of the extraction record, {recorded['width']} and "
                f"{recorded['rate_hz']:g}, got {width} and {rate_hz:g}"
            )
        lengths = inspection.lengths[modality].values()
        entries[modality] = {
            "width": width,
            "rate_hz": rate_hz,
            "min_length": min(lengths),
            "max_length": max(lengths),
            "extractor": recorded["extractor"] if recorded else None,
        }
    return entries
