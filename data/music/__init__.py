"""MUSIC and MUSIC-21: the published lists as entries; README.md beside this file has counts, flaws and commands."""

import json
from collections.abc import Sequence
from pathlib import Path

from scav_jax.features.checks import FeatureError
from scav_jax.features.clips import split_by_group
from scav_jax.features.official import Entry, Official, video_problem

NAME = "music"


def read(paths: Sequence[Path]) -> Official:
    """Files of {"videos": {instrument: [video ids]}}, solo and duet. FeatureError: not such a file at all.

    A video under several instruments has all of them as its label. It is cut into consecutive clips by the extraction;
    all clips of a video go to one split, by sha256 of its id: 80 % train, 10 % val, 10 % test.
    """
    labels: dict[str, list[str]] = {}
    refused, repeated = [], 0
    for path in paths:
        for instrument, videos in _videos(path).items():
            for video in videos:
                if problem := video_problem(video) if isinstance(video, str) else f"expected an id, got {video!r}":
                    refused.append(f"{path}: {instrument}: {problem}")
                    continue
                known = labels.setdefault(video, [])
                repeated += instrument in known
                known += [] if instrument in known else [instrument]
    entries = {video: Entry(video, video, None, " + ".join(sorted(of)), "all") for video, of in labels.items()}
    return Official(
        NAME, entries, refused, repeated, lambda entry: (entry.video,), lambda clip_id: clip_id[:-7], split_by_group
    )


def _videos(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise FeatureError([f"{path}: expected JSON in UTF-8: {error}"]) from error
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(ids, list) for ids in videos.values()):
        raise FeatureError([f'{path}: expected {{"videos": {{instrument: [video ids]}}}}'])
    return videos
