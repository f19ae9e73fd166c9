"""What the report says of search itself: accuracy against latency, wins and losses, what disturbed queries lose."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from scav_jax import significance
from scav_jax.plots import Point, colour, frontier_svg
from scav_jax.results import DIRECTION_NAMES, Run, mode_label, ordered, run_labeller, run_rows


def frontiers(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A direction: the plot of all runs that were timed, and its rows."""
    timed = [run for run in runs if run.frontier]
    label = run_labeller([row for run in timed for row in run_rows(run)])
    found = []
    for direction in ordered([row["direction"] for run in timed for row in run.frontier], list(DIRECTION_NAMES)):
        series: dict[tuple[str, tuple[str, str]], list[Point]] = {}
        lines = []
        for run in timed:
            facts = run_rows(run)[0]
            for row in (row for row in run.frontier if row["direction"] == direction):
                name = label(facts) + ("" if row["distance"] == facts["trained_with"] else f", by {row['distance']}")
                key = (facts["method"], facts["trained_with"])
                point = Point(row["mode"], row["ms_per_query"], row["R@1"], row["k"])
                series.setdefault((name, key), []).append(point)
                mode = mode_label({**facts, **row, "distance": facts["trained_with"]})
                lines.append({**row, "label": name, "mode": mode, "colour": colour(*key)})
        title = f"Recall at 1 against time a query, {DIRECTION_NAMES.get(direction, direction)}"
        found.append({"svg": Markup(frontier_svg(series, title=title)), "title": title, "lines": lines})
    return found


def contests(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The first run against each other one: wins and losses by subset, and the queries that moved most."""
    found = []
    for run in runs[1:]:
        paths = runs[0].path, run.path
        if not all((path / "eval" / "ranks.npz").is_file() for path in paths):
            continue
        try:
            subsets, (better, worse) = significance.paired(*paths), significance.moved(*paths)
        except ValueError:  # one of them has no ranking that is its own, as --modes=exact leaves
            continue
        label = run_labeller([row for side in runs for row in run_rows(side)])
        first, second = (label(run_rows(side)[0]) for side in (runs[0], run))
        found.append({"first": first, "second": second, "subsets": subsets, "better": better, "worse": worse})
    return found


def probes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A subset and direction: what R@1 each run and mode loses by each probe."""
    probed = [run for run in runs if run.probes]
    label = run_labeller([row for run in probed for row in run_rows(run)])
    rows = [
        {**row, "label": f"{label(facts)}, {mode_label({**facts, **row})}", "colour": colour(*_key(facts))}
        for run in probed
        for facts in [run_rows(run)[0]]
        for row in run.probes
    ]
    found = []
    for subset in ordered([row["subset"] for row in rows], ["all", "order", "semantic"]):
        for direction in ordered([row["direction"] for row in rows], list(DIRECTION_NAMES)):
            chosen = [row for row in rows if (row["subset"], row["direction"]) == (subset, direction)]
            heads = ordered([f"{row['probe']} {row['strength']:g}" for row in chosen], [])
            lines: dict[str, dict[str, Any]] = {}
            for row in chosen:
                line = lines.setdefault(row["label"], {"colour": row["colour"], "cells": {}})
                line["cells"][f"{row['probe']} {row['strength']:g}"] = row
            name = DIRECTION_NAMES.get(direction, direction)
            if chosen:
                found.append({"subset": subset, "direction": name, "heads": heads, "lines": lines})
    return found


def _key(facts: dict[str, Any]) -> tuple[str, str]:
    return facts["method"], facts["trained_with"]
