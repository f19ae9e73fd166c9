"""What the report says of recalls: the answer in a two-by-two table, every method on every subset, and bars."""

from collections.abc import Sequence
from typing import Any

from scav_jax.plots import colour
from scav_jax.results import (
    DIRECTION_NAMES,
    DISTANCE_NAMES,
    Row,
    head_lines,
    method_label,
    mode_label,
    ordered,
    percent_cell,
    run_labeller,
)


def compared_methods(rows: Sequence[Row]) -> tuple[tuple[str, str], tuple[str, str]]:
    """(method, trained_with) of CAV and of the one SCAV that stands for all: Euclidean, or else the first there is."""
    scav = [row["trained_with"] for row in rows if row["method"] == "scav"]
    return ("cav", "cosine"), ("scav", "euclidean" if "euclidean" in scav or not scav else scav[0])


def headlines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A direction: CAV and SCAV by aggregate and sequence on `order` (else `all`), with the ratios along both sides."""
    subsets = {row["subset"] for row in rows}
    subset = "order" if "order" in subsets else "all"
    both = compared_methods(rows)
    distance = both[1][1]
    headlines = []
    for direction in ordered([row["direction"] for row in rows], list(DIRECTION_NAMES)):
        cells: dict[tuple[tuple[str, str], str], Row] = {}
        for row in rows:
            method = (row["method"], row["trained_with"])
            ranked = row["mode"] == "aggregate" or (row["mode"] == "sequence" and row["distance"] == distance)
            wanted = method in both and ranked
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


def tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
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
            line = lines.setdefault(
                names,
                {
                    "label": names[0],
                    "mode": names[1],
                    "colour": colour(row["method"], row["trained_with"]),
                    "cells": {},
                },
            )
            line["cells"][row["subset"]] = {"row": row, "best": row["R@1"] == best[row["subset"]]}
        name = DIRECTION_NAMES.get(direction, direction)
        heads = {subset: head_lines(column[0]) for subset, column in columns.items()}
        tables.append({"direction": name, "heads": heads, "lines": list(lines.values())})
    return tables


def bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
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
        "colour": colour(row["method"], row["trained_with"]),
        "text": percent_cell(row),
        "width": 100 * row["R@1"] / end,
        "interval": None if low is None or high is None else (100 * low / end, 100 * (high - low) / end),
    }


def _axis_end(top: float) -> float:
    """The first round number of percent that holds `top`."""
    return next(end for end in (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0) if end >= min(top, 100))
