"""Is this clip worth training on? Facts of its picture and sound while they are decoded, and a report over a data set.

FEATURES/health*.jsonl: a JSON object a clip: id, seconds, motion and fingerprint of the picture, loudness and
fingerprint of the sound. Thresholds are our choice, and applied by the report alone.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SILENT_DB = -60.0  # root mean square, of full scale
STILL = 0.5 / 255  # mean change of a pixel from frame to frame
SHORT = 0.9  # of the length asked for
FILES = "health*.jsonl"


def measure(media: np.ndarray, rate_hz: float | int) -> dict[str, Any]:
    """Facts of decoded media: frames (n, height, width, 3) at `rate_hz`, or a waveform (S,) at that sample rate."""
    seconds = round(len(media) / rate_hz, 3)
    return {"picture_s": seconds, **_picture(media)} if media.ndim == 4 else {"sound_s": seconds, **_sound(media)}


def _picture(frames: np.ndarray) -> dict[str, Any]:
    """motion: mean change of brightness (0..1) from one frame to the next; picture: what three frames look like."""
    # Sums of whole numbers, and each mean rounded once: the same on every machine.
    edges = [np.linspace(0, size, count + 1).astype(int) for size, count in zip(frames.shape[1:3], (8, 9), strict=True)]
    grey = frames.sum(axis=3, dtype=np.int16)
    motion = float(np.abs(np.diff(grey, axis=0)).mean()) / (3 * 255) if len(grey) > 1 else 0.0
    rows, columns = (edge[:-1] for edge in edges)
    coarse = np.add.reduceat(np.add.reduceat(grey[[0, len(grey) // 2, -1]], rows, axis=1, dtype=int), columns, axis=2)
    coarse = coarse / np.outer(*(np.maximum(np.diff(edge), 1) for edge in edges))
    return {"motion": round(motion, 6), "picture": _bits(np.diff(coarse, axis=2) > 0)}


def _sound(samples: np.ndarray) -> dict[str, Any]:
    """loudness_db: root mean square of full scale; sound: where it grows louder."""
    power = np.square(samples, dtype=np.float64)
    loudness_db = 10 * np.log10(power.mean() + 1e-12)
    edges = np.arange(65) * len(power) // 65
    envelope = np.log10(np.add.reduceat(power, edges) + 1e-9)
    return {"loudness_db": round(float(loudness_db), 2), "sound": _bits(np.diff(envelope) > 0)}


def _bits(signs: np.ndarray) -> str:
    return np.packbits(signs.ravel()).tobytes().hex()


def line(clip_id: str, facts: Mapping[str, Any]) -> str:
    """What a health file says of one clip: a JSON object, without the end of the line."""
    return json.dumps({"id": clip_id, **facts})


def read_lines(path: Path) -> list[str]:
    """The whole lines of a health file; a kill may have torn the last one."""
    return [text for text in path.read_text(encoding="utf-8").splitlines() if _facts(text)] if path.exists() else []


def read(features: str | Path) -> dict[str, dict[str, Any]]:
    """The facts by id, of all health files of a folder; the last line of a clip counts."""
    paths = sorted(Path(features).glob(FILES))
    return {facts.pop("id"): facts for path in paths for text in read_lines(path) if (facts := _facts(text))}


def _facts(text: str) -> dict[str, Any] | None:
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "id" in facts else None


def report(
    health: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Iterable[str]], length_s: float | None = None
) -> dict[str, Any]:
    """What is silent, still, short or there twice among a data set's clips: counts, and of each at most 20 ids.

    splits: the ids of each split. Duplicates look and sound alike: fingerprints of picture and sound are the same;
    `leaks` are those that occur in two splits. Clips without facts are counted as unknown.
    """
    split_of = {clip_id: split for split, ids in splits.items() for clip_id in ids}
    known = {clip_id: health[clip_id] for clip_id in split_of if clip_id in health}
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for clip_id, facts in known.items():
        if "picture" in facts and "sound" in facts:
            alike[facts["picture"], facts["sound"]].append(clip_id)
    twins = [ids for ids in alike.values() if len(ids) > 1]
    found = {
        "silent": [i for i, facts in known.items() if facts.get("loudness_db", 0) < SILENT_DB],
        "still": [i for i, facts in known.items() if facts.get("motion", 1) < STILL],
        "short": [] if length_s is None else [i for i, facts in known.items() if _seconds(facts) < SHORT * length_s],
        "duplicate": [i for ids in twins for i in ids[1:]],
        "leak": [i for ids in twins if len({split_of[i] for i in ids}) > 1 for i in ids],
    }
    return {
        "clips": len(split_of),
        "unknown": len(split_of) - len(known),
        **{name: {"count": len(ids), "ids": sorted(ids)[:20]} for name, ids in found.items()},
    }


def _seconds(facts: Mapping[str, Any]) -> float:
    return min(facts.get("picture_s", float("inf")), facts.get("sound_s", float("inf")))


def describe(health: Mapping[str, Any]) -> str:
    """One line of text."""
    counts = ", ".join(f"{health[name]['count']} {name}" for name in ("silent", "still", "short", "duplicate", "leak"))
    return f"health of {health['clips'] - health['unknown']} of {health['clips']} clips: {counts}"
