"""One self-contained HTML page for one or several evaluated runs, side by side.

    python -m scav_jax.report RUN [RUN ...] --out report.html
    python -m scav_jax.report clip CLIP.mp4 [CLIP.mp4 ...] --out clips.png

The page loads nothing and runs no script. Ids, labels and names are the user's and are escaped.
"""

import argparse
import base64
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from scav_jax import files, search_sections
from scav_jax.alignment_picture import alignment_picture
from scav_jax.film import clip_picture, clip_sheet
from scav_jax.plots import LINE_STYLES, Curve, colour, curves_svg
from scav_jax.protocol import check_comparable
from scav_jax.results import (
    DIRECTION_NAMES,
    DISTANCE_NAMES,
    Intervals,
    Row,
    Run,
    head_lines,
    load_run,
    method_label,
    mode_label,
    ordered,
    percent_cell,
    pool_seeds,
    run_labeller,
    run_rows,
    sort_key,
    summary_rows,
    terminal_table,
)

__all__ = ["main", "pool_seeds", "summary_rows", "terminal_table", "write_report"]

MAX_QUERIES = 6
TOP_CLIPS = 3
PICTURE_WIDTH = 420
MEDIA_SUFFIX = ".mp4"


def write_report(
    runs: Sequence[files.AnyPath],
    out: files.AnyPath,
    *,
    title: str = "Audio-visual retrieval",
    pooled: Intervals | None = None,
    summary: files.AnyPath | None = None,
    note: str | None = None,
) -> None:
    """Run folders -> one HTML page at `out`; what a run lacks is left out and the page says so.

    pooled: merge the seeds of a method, with these intervals (see results.pool_seeds); None shows every run apart.
    summary: also write the rows of all runs there, unpooled, as {"rows": [...]}. note: a paragraph under the title.
    Raises ValueError naming the file where a run has no evaluation or a file is malformed, and the field in which runs
    were not evaluated alike.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    if not runs:
        raise ValueError("runs: expected at least one run folder, got none")
    loaded = sorted((load_run(path) for path in runs), key=lambda run: sort_key(run_rows(run)[0]))
    check_comparable({run.name: run.protocol for run in loaded})
    raw_rows = [row for run in loaded for row in run_rows(run)]
    rows = sorted(raw_rows if pooled is None else pool_seeds(raw_rows, pooled), key=sort_key)
    if summary is not None:
        files.write_whole(summary, json.dumps({"rows": raw_rows}, indent=1) + "\n")

    shown = loaded if pooled is None else _one_run_a_method(loaded)
    queries, query_note = _queries(shown)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        title=title,
        note=note,
        runs=loaded,
        headlines=_headlines(rows),
        tables=_tables(rows),
        bars=_bars(rows),
        curves=[Markup(svg) for svg in _training_curves(loaded, name_runs=pooled is None)],
        frontiers=search_sections.frontiers(shown),
        contests=search_sections.contests(shown),
        probes=search_sections.probes(shown),
        queries=queries,
        query_note=query_note,
        protocols=_compared([run.protocol for run in loaded], skip=("subsets",)),
        config_changes=[line for line in _compared([run.config for run in loaded]) if not line["same"]],
        configs=_compared([run.config for run in loaded]),
    )
    files.write_whole(out, page)


def _headlines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A direction: CAV and SCAV by aggregate and sequence on `order` (else `all`), with the ratios along both sides."""
    subsets = {row["subset"] for row in rows}
    subset = "order" if "order" in subsets else "all"
    scav = [row["trained_with"] for row in rows if row["method"] == "scav"]
    distance = "euclidean" if "euclidean" in scav or not scav else scav[0]
    headlines = []
    for direction in ordered([row["direction"] for row in rows], list(DIRECTION_NAMES)):
        cells: dict[tuple[tuple[str, str], str], Row] = {}
        for row in rows:
            method = (row["method"], row["trained_with"])
            ranked = row["mode"] == "aggregate" or (row["mode"] == "sequence" and row["distance"] == distance)
            wanted = method in (("cav", "cosine"), ("scav", distance)) and ranked
            if wanted and (row["subset"], row["direction"]) == (subset, direction):
                if (method, row["mode"]) in cells:
                    return []  # several runs of one method, not pooled: no single answer
                cells[method, row["mode"]] = row
        if not cells:
            continue
        methods = list(dict.fromkeys(method for method, _ in cells))
        lines: list[dict[str, Any]] = []
        for method in methods:
            pair = tuple(cells.get((method, mode)) for mode in ("aggregate", "sequence"))
            label = method_label({"method": method[0], "trained_with": method[1]})
            lines.append({"label": label, "colour": colour(*method), "cells": pair, "ratio": _ratio(*pair)})
        columns = [[line["cells"][side] for line in lines] for side in range(2)]
        headlines.append(
            {
                "direction": DIRECTION_NAMES.get(direction, direction),
                "head": ", ".join(head_lines(next(iter(cells.values())))),
                "distance": DISTANCE_NAMES.get(distance, distance),
                "lines": lines,
                "ratios": [_ratio(*column) for column in columns] if len(lines) == 2 else None,
                "baseline": lines[0]["cells"][0],
                "best": lines[-1]["cells"][1],
                "gain": _ratio(lines[0]["cells"][0], lines[-1]["cells"][1]),
            }
        )
    return headlines


def _ratio(below: Row | None, above: Row | None) -> str:
    if below is None or above is None or below["R@1"] == 0:
        return "–"
    return f"{above['R@1'] / below['R@1']:.1f}×"


def _tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A direction: one line for each run and mode, one cell for each subset; the best R@1 of a column is marked."""
    label = run_labeller(rows)
    tables = []
    for direction in ordered([row["direction"] for row in rows], list(DIRECTION_NAMES)):
        chosen = [row for row in rows if row["direction"] == direction]
        subsets = ordered([row["subset"] for row in chosen], ["all"])
        columns = {subset: [row for row in chosen if row["subset"] == subset] for subset in subsets}
        best = {subset: max(row["R@1"] for row in column) for subset, column in columns.items()}
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for row in chosen:
            names = (label(row), mode_label(row))
            line = lines.setdefault(names, {"label": names[0], "mode": names[1], "colour": _colour(row), "cells": {}})
            line["cells"][row["subset"]] = {"row": row, "best": row["R@1"] == best[row["subset"]]}
        name = DIRECTION_NAMES.get(direction, direction)
        heads = {subset: head_lines(column[0]) for subset, column in columns.items()}
        tables.append({"direction": name, "heads": heads, "lines": list(lines.values())})
    return tables


def _bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A subset and direction: R@1 bars with intervals, all positions in percent of the plot's width."""
    label = run_labeller(rows)
    plots = []
    for subset in ordered([row["subset"] for row in rows], ["all"]):
        for direction in ordered([row["direction"] for row in rows], list(DIRECTION_NAMES)):
            chosen = [row for row in rows if (row["subset"], row["direction"]) == (subset, direction)]
            if not chosen:
                continue
            group = chosen[0]["group_size"]
            levels = {
                "chance": chosen[0]["chance_R@1"],
                "right group, order guessed": 100 / group if group and group > 1 else None,
            }
            tops = [row.get("R@1_high") or row["R@1"] for row in chosen] + [level or 0 for level in levels.values()]
            end = _axis_end(max(tops))
            plots.append(
                {
                    "head": ", ".join(head_lines(chosen[0])),
                    "direction": DIRECTION_NAMES.get(direction, direction),
                    "end": end,
                    "levels": [(name, level, 100 * level / end) for name, level in levels.items() if level is not None],
                    "bars": [_bar(row, label(row), end) for row in chosen],
                }
            )
    return plots


def _bar(row: Row, label: str, end: float) -> dict[str, Any]:
    low, high = row.get("R@1_low"), row.get("R@1_high")
    return {
        "label": f"{label}, {mode_label(row)}",
        "mode": row["mode"],
        "colour": _colour(row),
        "text": percent_cell(row),
        "width": 100 * row["R@1"] / end,
        "interval": None if low is None or high is None else (100 * low / end, 100 * (high - low) / end),
    }


def _axis_end(top: float) -> float:
    """The first round number of percent that holds `top`."""
    return next(end for end in (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0) if end >= min(top, 100))


def _colour(row: Row) -> str:
    return colour(row["method"], row["trained_with"])


def _training_curves(runs: Sequence[Run], name_runs: bool) -> list[str]:
    """`name_runs`: a legend entry for each run, else one for all runs of a method."""
    losses, recalls, eval_keys = [], [], []
    label = run_labeller([row for run in runs for row in run_rows(run)]) if name_runs else method_label
    relative = all(run.config.get("batch_size", 1) > 1 for run in runs)
    for run in runs:
        row = run_rows(run)[0]
        name, key = label(row), (row["method"], row["trained_with"])
        scale = math.log(run.config["batch_size"]) if relative else 1.0
        if train := [line for line in run.history if "loss" in line]:
            losses.append(Curve(name, key, [r["step"] for r in train], [r["loss"] / scale for r in train]))
        for metric in dict.fromkeys(key for line in run.history for key in line if _is_recall(key)):
            if metric not in eval_keys:
                eval_keys.append(metric)
            evals = [line for line in run.history if metric in line]
            steps, values = [line["step"] for line in evals], [line[metric] for line in evals]
            text = f"{name}, {metric.removeprefix('eval_')}"
            recalls.append(Curve(text, key, steps, values, style=eval_keys.index(metric) % len(LINE_STYLES)))
    plots = []
    if losses:
        y_label = "loss / ln N" if relative else "loss (nats)"
        chance = {"chance": 1.0} if relative else {}
        plots.append(curves_svg(losses, title="Training loss", y_label=y_label, lines=chance, smooth=True))
    if recalls:
        plots.append(curves_svg(recalls, title="Recall during training", y_label="R@1 on validation (%)"))
    return plots


def _is_recall(key: str) -> bool:
    return key.startswith("eval_") and key.endswith("R@1")


def _queries(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], str]:
    """What each run retrieved for the same few queries, and a note on what could not be shown."""
    asked = [(run, query) for run in runs for query in run.retrieved.get("queries", [])]
    if not asked:
        return [], "No run has eval/retrieved.json."
    picture, note = _picture_finder(runs)
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
            row = query | {"k": query.get("k"), "run": run.name} | {f: run.protocol[f] for f in _RUN_FIELDS}
            laid = dict(zip(query["retrieved"], query.get("alignments", []), strict=False))
            clips = [
                {"rank": rank, "id": found, "right": found == clip_id, "picture": picture(found)}
                | {"alignment": picture(clip_id, found, json.dumps(laid[found])) if found in laid else None}
                for rank, found in enumerate(query["retrieved"][:TOP_CLIPS], start=1)
            ]
            name = f"{label(row)}, {mode_label(row)}"
            answers.append({"label": name, "colour": _colour(row), "rank": query["rank"], "clips": clips})
        query = same[0][1]
        direction_name = DIRECTION_NAMES.get(direction, direction)
        cards.append({"id": clip_id, "direction": direction_name, "subset": query["subset"],
                      "picture": picture(clip_id), "answers": answers})  # fmt: skip
    return cards, note


def _one_run_a_method(runs: Sequence[Run]) -> list[Run]:
    """The first run of each: the seeds of one method would only repeat each other's pictures."""
    return list({(run.protocol["method"], run.protocol["trained_with"]): run for run in reversed(runs)}.values())[::-1]


_RUN_FIELDS = ("method", "trained_with", "seed")


def _picture_finder(runs: Sequence[Run]) -> tuple[Callable[..., str | None], str]:
    """clip id -> data URI of its picture, or None; two ids and their alignment as JSON -> both laid over each other.

    Ids select among the files found and are never made into a path.
    """
    folders = {Path(run.retrieved["media"]) for run in runs if run.retrieved.get("media")}
    files = {path.stem: path for folder in sorted(folders) for path in sorted(folder.rglob(f"*{MEDIA_SUFFIX}"))}

    @cache
    def picture(clip_id: str, heard: str | None = None, alignment: str = "") -> str | None:
        from scav_jax.features.media import MediaError

        if clip_id not in files or (heard is not None and heard not in files):
            return None
        try:
            if heard is None:
                encoded = clip_picture(files[clip_id], width=PICTURE_WIDTH, image_format="JPEG")
            else:
                weights = np.array(json.loads(alignment), float)
                encoded = alignment_picture(files[clip_id], files[heard], weights, width=PICTURE_WIDTH)
        except (MediaError, ImportError):  # without PyAV the clip is shown by its id
            return None
        return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()

    if not folders:
        return picture, "The store names no media folder, so the clips are shown by id alone."
    if not files:
        listed = ", ".join(map(str, sorted(folders)))
        return picture, f"No {MEDIA_SUFFIX} files were found under {listed}, so the clips are shown by id alone."
    return picture, ""


def _compared(sections: Sequence[Mapping[str, Any]], skip: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Nested settings of several runs -> one line a dotted key, in order, with every run's value."""
    flat = [_flattened({key: value for key, value in section.items() if key not in skip}) for section in sections]
    lines = []
    for key in dict.fromkeys(key for section in flat for key in section):
        values = [section.get(key, "–") for section in flat]
        lines.append({"key": key, "values": values, "same": len(set(values)) == 1})
    return lines


def _flattened(section: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 after one line that names the bad file."""
    from scav_jax.features.media import MediaError

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m scav_jax.report", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", help="run folders; or the word clip, then media files")
    parser.add_argument("--out", required=True, help="the HTML page, or the PNG of the clips")
    parser.add_argument("--title", default="Audio-visual retrieval")
    parser.add_argument("--note", help="a paragraph under the title")
    parser.add_argument("--pool-seeds", action="store_true", help="show the mean over the seeds of each method")
    options = parser.parse_args(arguments)
    clips = options.paths[1:] if options.paths[0] == "clip" else None
    if clips == []:
        parser.error("clip: expected at least one media file, got none")
    try:
        if clips is not None:
            files.write_whole(files.at(options.out), clip_sheet([Path(clip) for clip in clips]))
        else:
            pooled: Intervals | None = {} if options.pool_seeds else None
            runs = [files.at(path) for path in options.paths]
            write_report(runs, files.at(options.out), title=options.title, pooled=pooled, note=options.note)
    except (ValueError, MediaError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
