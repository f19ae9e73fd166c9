"""One self-contained HTML page for one or several evaluated runs, side by side.

    python -m scav_jax.report RUN [RUN ...] --out report.html
    python -m scav_jax.report clip CLIP.mp4 [CLIP.mp4 ...] --out clips.png

The page loads nothing and runs no script. Ids, labels and names are the user's and are escaped.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scav_jax import examples, files, poster, query_sections, recall_sections, search_sections
from scav_jax.film import clip_sheet
from scav_jax.melody import Melody
from scav_jax.page import render
from scav_jax.plots import LINE_STYLES, Curve, curves_svg
from scav_jax.protocol import check_comparable
from scav_jax.results import (
    Intervals,
    Run,
    load_run,
    method_label,
    pool_seeds,
    run_labeller,
    run_rows,
    sort_key,
    summary_rows,
    terminal_table,
)
from scav_jax.shown_clips import ShownClips

__all__ = ["main", "pool_seeds", "summary_rows", "terminal_table", "write_report"]


def write_report(
    runs: Sequence[files.AnyPath],
    out: files.AnyPath,
    *,
    title: str = "Audio-visual retrieval",
    pooled: Intervals | None = None,
    summary: files.AnyPath | None = None,
    note: str | None = None,
    melodies: Mapping[str, Melody] | None = None,
    poster_out: files.AnyPath | None = None,
) -> None:
    """Run folders -> one HTML page at `out`; what a run lacks is left out and the page says so.

    pooled: merge the seeds of a method, with these intervals (see results.pool_seeds); None shows every run apart.
    summary: also write the rows of all runs there, unpooled, as {"rows": [...]}. note: a paragraph under the title.
    melodies: id -> what is played, where a data set knows it. poster_out: also draw there, as a PNG, one of the queries
    that can be heard; without media at hand there are neither.
    Raises ValueError naming the file where a run has no evaluation or a file is malformed, and the field in which runs
    were not evaluated alike.
    """
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
    clips = ShownClips(shown)
    heard = examples.choose(shown, clips)
    if poster_out is not None and (drawn := poster.picture(heard, clips, melodies or {})) is not None:
        files.write_whole(poster_out, drawn)
    queries = query_sections.queries(shown, clips)
    page = render(
        "report.html",
        title=title,
        note=note,
        runs=loaded,
        heard=examples.section(heard, clips, melodies or {}),
        headlines=recall_sections.headlines(rows),
        tables=recall_sections.tables(rows),
        bars=recall_sections.bars(rows),
        curves=[Markup(svg) for svg in _training_curves(loaded, name_runs=pooled is None)],
        frontiers=search_sections.frontiers(shown),
        contests=search_sections.contests(shown),
        probes=search_sections.probes(shown),
        queries=queries,
        query_note=clips.note if queries else "No run has eval/retrieved.json.",
        protocols=_compared([run.protocol for run in loaded], skip=("subsets",)),
        config_changes=[line for line in _compared([run.config for run in loaded]) if not line["same"]],
        configs=_compared([run.config for run in loaded]),
    )
    files.write_whole(out, page)


def _one_run_a_method(runs: Sequence[Run]) -> list[Run]:
    """The first run of each: the seeds of one method would only repeat each other's pictures."""
    return list({(run.protocol["method"], run.protocol["trained_with"]): run for run in reversed(runs)}.values())[::-1]


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
