"""A few queries to be heard and seen: each picture with its own sound, and with those that CAV and SCAV found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from scav_jax import query_sections
from scav_jax.alignment_strip import alignment_strip
from scav_jax.dubbing import dubbed, still
from scav_jax.melody import Melody, Stroke, strokes
from scav_jax.plots import colour
from scav_jax.recall_sections import compared_methods
from scav_jax.results import Row, Run, method_label, run_rows
from scav_jax.shown_clips import ShownClips

MAX_EXAMPLES = 10
DIRECTION = "v2a"
UNIFORM = np.ones((16, 16))  # the alignment of averages: every frame goes with every step
RHYTHM_S = 0.05  # strokes that are nearer are one to the ear


@dataclass(frozen=True)
class Answers:
    """What one run, by its own retrieval, answered: id -> its row of retrieved.json, and R@1 over the whole subset."""

    label: str
    colour: str
    seed: int
    row: Row
    queries: Mapping[str, Row]

    def right(self, clip_id: str) -> bool:
        return self.queries[clip_id]["rank"] == 1

    def first(self, clip_id: str) -> str:
        return self.queries[clip_id]["retrieved"][0]

    def alignment(self, clip_id: str, heard: str) -> np.ndarray | None:
        """Of the query's film with a sound, if it is among those that the run aligned; averages align all with all."""
        if self.row["mode"] == "aggregate":
            return UNIFORM
        query = self.queries[clip_id]
        laid = query_sections.alignments(query)
        return np.array(laid[heard], float) if heard in laid else None


@dataclass(frozen=True)
class Examples:
    """ids: queries that all of `answers` were asked, in the order in which eval.py asked them, whatever they found."""

    ids: Sequence[str]
    answers: Sequence[Answers]

    @property
    def subset(self) -> Row:
        """Its name, gallery size and group size."""
        return self.answers[0].row


def choose(runs: Sequence[Run], clips: ShownClips) -> Examples | None:
    """The queries whose media are at hand, and the answers of CAV and of SCAV; None where there are none."""
    answers = []
    for method in compared_methods([row for run in runs for row in run_rows(run)]):
        named = [run for run in runs if (run.protocol["method"], run.protocol["trained_with"]) == method]
        answers += [found for run in named[:1] if (found := _answers(run))]
    if not answers:
        return None
    common = [clip_id for clip_id in answers[0].queries if all(clip_id in other.queries for other in answers)]
    ids = [clip_id for clip_id in common if clip_id in clips.files][:MAX_EXAMPLES]
    return Examples(ids, answers) if ids else None


def _answers(run: Run) -> Answers | None:
    facts = run_rows(run)[0]
    mode = "aggregate" if facts["method"] == "cav" else "sequence"
    own = {"mode": mode, "distance": facts["trained_with"], "direction": DIRECTION}
    asked = [query for query in run.retrieved.get("queries", []) if own.items() <= query.items()]
    if not asked:
        return None
    own["subset"] = asked[0]["subset"]
    rows = [row for row in run_rows(run) if own.items() <= row.items()]
    label, seed = method_label(facts), facts["seed"]
    queries = {query["id"]: query for query in asked if query["retrieved"]}
    return Answers(label, colour(facts["method"], facts["trained_with"]), seed, rows[0], queries) if rows else None


def section(examples: Examples | None, clips: ShownClips, melodies: Mapping[str, Melody]) -> dict[str, Any] | None:
    """What the page shows of them; None where no film can be made."""
    if examples is None:
        return None
    cards = [_card(examples, clip_id, clips, melodies) for clip_id in examples.ids]
    if not any(column["film"] for card in cards for column in card["columns"]):
        return None
    scores = [
        {"label": one.label, "colour": one.colour, "seed": one.seed, "recall": one.row["R@1"], "mode": one.row["mode"]}
        | {"right": sum(one.right(clip_id) for clip_id in examples.ids)}
        for one in examples.answers
    ]
    return {"subset": examples.subset, "cards": cards, "scores": scores, "with_notes": bool(melodies)}


def _card(examples: Examples, clip_id: str, clips: ShownClips, melodies: Mapping[str, Melody]) -> dict[str, Any]:
    own: dict[str, Any] = {"label": "its own sound", "colour": None, "right": None, "heard": clip_id, "alignment": None}
    found = [own]
    for answers in examples.answers:
        heard = answers.first(clip_id)
        alignment = answers.alignment(clip_id, heard)
        if answers.row["mode"] == "sequence":
            own["alignment"] = answers.alignment(clip_id, clip_id)
        found.append({"label": f"{answers.label} found", "colour": answers.colour, "right": answers.right(clip_id),
                      "heard": heard, "alignment": alignment})  # fmt: skip
    poster = clips.drawn(still, clip_id)
    columns = []
    for column in found:
        heard = column["heard"]
        pairs = strokes(melodies[clip_id], melodies[heard]) if {clip_id, heard} <= melodies.keys() else []
        strip = partial(alignment_strip, alignment=column.pop("alignment"), strokes=pairs)
        film = clips.drawn(dubbed, clip_id, heard, kind="video/mp4")
        notes = {"strokes": pairs, "wrong": sum(not pair.right for pair in pairs), "one_rhythm": _one_rhythm(pairs)}
        columns.append(column | notes | {"film": film, "strip": clips.drawn(strip, clip_id, heard)})
    return {"id": clip_id, "poster": poster, "columns": columns}


def _one_rhythm(pairs: Sequence[Stroke]) -> bool:
    return all(abs(pair.seen_s - pair.heard_s) < RHYTHM_S for pair in pairs)
