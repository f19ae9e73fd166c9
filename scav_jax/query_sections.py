"""What the report says of single queries: the clips that each run and mode retrieved, as pictures."""

from collections.abc import Sequence
from typing import Any

from scav_jax.plots import colour
from scav_jax.results import DIRECTION_NAMES, Row, Run, mode_label, run_labeller, run_rows
from scav_jax.shown_clips import ShownClips

MAX_QUERIES = 4
TOP_CLIPS = 3
RUN_FIELDS = ("method", "trained_with", "seed")


def queries(runs: Sequence[Run], clips: ShownClips) -> list[dict[str, Any]]:
    """A query: its picture, and what each run and mode retrieved for it."""
    asked = [(run, query) for run in runs for query in run.retrieved.get("queries", [])]
    counts: dict[tuple[str, str], int] = {}
    for _, query in asked:
        counts[query["direction"], query["id"]] = counts.get((query["direction"], query["id"]), 0) + 1
    chosen = sorted(counts, key=lambda key: -counts[key])[:MAX_QUERIES]  # stable: the queries that most runs answered
    label = run_labeller([row for run in runs for row in run_rows(run)])
    cards = []
    for direction, clip_id in chosen:
        same = [(run, query) for run, query in asked if (query["direction"], query["id"]) == (direction, clip_id)]
        answers = []
        for run, query in same:
            row = query | {"k": query.get("k"), "run": run.name} | {field: run.protocol[field] for field in RUN_FIELDS}
            laid = alignments(query)
            nearest = [
                {"rank": rank, "id": found, "right": found == clip_id, "picture": clips.picture(found)}
                | {"alignment": clips.alignment(clip_id, found, laid[found]) if found in laid else None}
                for rank, found in enumerate(query["retrieved"][:TOP_CLIPS], start=1)
            ]
            name = f"{label(row)}, {mode_label(row)}"
            answers.append(
                {
                    "label": name,
                    "colour": colour(row["method"], row["trained_with"]),
                    "rank": query["rank"],
                    "clips": nearest,
                }
            )
        query = same[0][1]
        direction_name = DIRECTION_NAMES.get(direction, direction)
        cards.append({"id": clip_id, "direction": direction_name, "subset": query["subset"],
                      "picture": clips.picture(clip_id), "answers": answers})  # fmt: skip
    return cards


def alignments(query: Row) -> dict[str, list[list[int]]]:
    """id -> how the run's distance lays that clip over the query's, for the few that it kept; averages have none."""
    aligned, threads = query.get("aligned") or query["retrieved"], query.get("alignments") or []
    return dict(zip(aligned, threads, strict=False))
