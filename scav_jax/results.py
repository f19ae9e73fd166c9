"""Evaluated runs as rows: read, flattened, merged over seeds, printed as a plain table.

A row is one result of eval.py (mode, distance, direction, subset, k, recalls in percent) with all that the number means
nothing without: "method", "trained_with", "seed", "run", "gallery_size", "group_size", "chance_R@1", "ids_sha256".
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scav_jax import files

Row = dict[str, Any]
# method, trained_with, mode, distance, direction, subset, k
Key = tuple[str, str, str, str, str, str, int | None]
Intervals = Mapping[Key, tuple[float, float]]

METRICS = ("R@1", "R@5", "R@10", "MedR", "MRR")
QUERY_FIELDS = {"id", "subset", "direction", "mode", "distance", "rank", "retrieved"}
DISTANCE_NAMES = {
    "cosine": "cosine",
    "euclidean": "Euclidean",
    "dtw": "DTW",
    "wasserstein": "Wasserstein",
    "maxsim": "MaxSim, no order",
    "chamfer": "Chamfer, no order",
}
DIRECTION_NAMES = {"v2a": "visual to audio", "a2v": "audio to visual"}
MODES = ("aggregate", "sequence", "hybrid", "exact")


@dataclass(frozen=True)
class Run:
    """What a run folder holds; config, history and retrieved are empty where their file is missing, frontier and probes
    where eval.py was not asked for them."""

    name: str
    path: files.AnyPath
    protocol: dict[str, Any]
    results: list[Row]
    config: dict[str, Any]
    history: list[Row]
    retrieved: dict[str, Any]
    frontier: list[Row]
    probes: list[Row]


def load_run(path: files.AnyPath) -> Run:
    """A run folder that eval.py has been through. Raises ValueError naming the file that is missing or malformed."""
    metrics_path = path / "eval" / "metrics.json"
    if not metrics_path.is_file():
        raise ValueError(f"{metrics_path}: expected the metrics that eval.py writes, found no file")
    metrics = _read_json(metrics_path)
    for field in ("protocol", "results"):
        if field not in metrics:
            raise ValueError(f"{metrics_path}: expected the field {field!r}, got {sorted(metrics)}")
    for field in ("method", "trained_with", "seed"):
        if field not in metrics["protocol"]:
            raise ValueError(f"{metrics_path}: expected protocol.{field}, got {sorted(metrics['protocol'])}")
    if not metrics["results"]:
        raise ValueError(f"{metrics_path}: expected at least one result, got an empty list")
    for position, result in enumerate(metrics["results"]):
        if missing := {"mode", "distance", "direction", "subset", *METRICS} - result.keys():
            raise ValueError(f"{metrics_path}: results[{position}] lacks {sorted(missing)}")
    config_path, retrieved_path = path / "config.json", path / "eval" / "retrieved.json"
    retrieved = _read_json(retrieved_path) if retrieved_path.is_file() else {}
    for position, query in enumerate(retrieved.get("queries", [])):
        if missing := QUERY_FIELDS - query.keys():
            raise ValueError(f"{retrieved_path}: queries[{position}] lacks {sorted(missing)}")
    return Run(
        name=files.absolute(path).name,
        path=path,
        protocol=metrics["protocol"],
        results=metrics["results"],
        config=_read_json(config_path) if config_path.is_file() else {},
        history=_read_history(path / "metrics.jsonl"),
        retrieved=retrieved,
        frontier=metrics.get("frontier", []),
        probes=metrics.get("probes", []),
    )


def _read_json(path: files.AnyPath) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_history(path: files.AnyPath) -> list[Row]:
    """The rows of metrics.jsonl in order; a last line without its end is a write that a stop cut short."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text().split("\n")[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {error}") from error
    return rows


def run_rows(run: Run) -> list[Row]:
    """The results of one run as rows (see the module's docstring)."""
    protocol = run.protocol
    shared = {field: protocol[field] for field in ("method", "trained_with", "seed")}
    shared |= {"run": run.name, "ids_sha256": protocol.get("ids_sha256")}
    return [{"k": None} | result | shared | _subset_facts(protocol, result["subset"]) for result in run.results]


def _subset_facts(protocol: Mapping[str, Any], subset: str) -> Row:
    facts = protocol.get("subsets", {}).get(subset, {})
    gallery_size = facts.get("gallery_size", protocol.get("gallery_size") if subset == "all" else None)
    return {
        "gallery_size": gallery_size,
        "group_size": facts.get("group_size"),
        "chance_R@1": facts.get("chance_R@1", 100 / gallery_size if gallery_size else None),
    }


def summary_rows(runs: Sequence[files.AnyPath]) -> list[Row]:
    """Every result of every run folder as one flat row, in the order of the runs: the rows of summary.json."""
    return [row for path in runs for row in run_rows(load_run(path))]


def pool_seeds(rows: Sequence[Row], intervals: Intervals) -> list[Row]:
    """One row for all seeds of a (method, trained_with): the mean of each metric, "seed" the list of seeds.

    `intervals` gives R@1's (low, high) in percent. A row of several seeds that has none there has no interval: those
    of single runs do not average.
    Raises ValueError where a seed occurs twice, since two such runs differ in more than the seed.
    """
    merged: dict[Key, list[Row]] = {}
    for row in rows:
        merged.setdefault(_key(row), []).append(row)
    return [_pooled(same, intervals.get(key)) for key, same in merged.items()]


def _pooled(rows: Sequence[Row], interval: tuple[float, float] | None) -> Row:
    seeds = [row["seed"] for row in rows]
    if len(set(seeds)) < len(seeds):
        names = ", ".join(str(row["run"]) for row in rows)
        raise ValueError(f"seed: expected one run a seed to pool {method_label(rows[0])}, got {seeds} in runs {names}")
    if len(rows) == 1 and interval is None:
        return rows[0] | {"seed": seeds}
    pooled = rows[0] | {metric: sum(row[metric] for row in rows) / len(rows) for metric in METRICS}
    low, high = interval or (None, None)
    return pooled | {"seed": seeds, "run": ", ".join(row["run"] for row in rows), "R@1_low": low, "R@1_high": high}


def _key(row: Row) -> Key:
    fields = ("method", "trained_with", "mode", "distance", "direction", "subset", "k")
    return tuple(row[field] for field in fields)


def method_label(row: Mapping[str, Any]) -> str:
    """ "CAV", "SCAV Euclidean", ...: the method and, for scav, the distance it was trained with."""
    if row["method"] == "cav":
        return "CAV"
    return f"{row['method'].upper()} {DISTANCE_NAMES.get(row['trained_with'], row['trained_with'])}"


def mode_label(row: Mapping[str, Any]) -> str:
    """ "aggregate", "sequence", "hybrid k=50": how the gallery was ranked; a distance not trained with is named."""
    if row["mode"] == "aggregate":
        return "aggregate"
    k = f" k={row['k']}" if row["k"] is not None else ""
    distance = DISTANCE_NAMES.get(row["distance"], row["distance"])
    return f"{row['mode']}{k}" + (f" ({distance})" if row["distance"] != row["trained_with"] else "")


def run_labeller(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Names each row's run: by its method alone, with the run's name where several runs share a method."""
    names: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(method_label(row), set()).add(row["run"])

    def label(row: Row) -> str:
        method = method_label(row)
        if isinstance(row["seed"], list) and len(row["seed"]) > 1:
            method += f", {len(row['seed'])} seeds"
        return method if len(names[method_label(row)]) == 1 else f"{method} ({row['run']})"

    return label


def sort_key(row: Row) -> tuple[Any, ...]:
    """CAV first, then SCAV by distance; for each run aggregate, sequence, hybrid by k, exact."""
    distances = list(DISTANCE_NAMES)
    trained_with, distance = (
        distances.index(row[field]) if row[field] in distances else len(distances)
        for field in ("trained_with", "distance")
    )
    mode = MODES.index(row["mode"]) if row["mode"] in MODES else len(MODES)
    return (row["method"], trained_with, row["run"], mode, distance, row["k"] or 0)


def ordered(values: Sequence[str], first: Sequence[str]) -> list[str]:
    """Distinct values, those of `first` in front, the others as they come."""
    return sorted(dict.fromkeys(values), key=lambda value: first.index(value) if value in first else len(first))


def head_lines(row: Row) -> list[str]:
    """What stands over a subset's column: its name, gallery size, group size and chance R@1."""
    groups = "no groups" if row["group_size"] in (None, 1) else f"groups of {row['group_size']:g}"
    chance = "chance unknown" if row["chance_R@1"] is None else f"chance {row['chance_R@1']:.2f}"
    return [row["subset"], f"gallery {row['gallery_size'] or '?'}", groups, chance]


def percent_cell(row: Row) -> str:
    """ "41.2 [38.0-44.1]": R@1 in percent and, where known, its 95 % interval."""
    if row.get("R@1_low") is None or row.get("R@1_high") is None:
        return f"{row['R@1']:.1f}"
    return f"{row['R@1']:.1f} [{row['R@1_low']:.1f}-{row['R@1_high']:.1f}]"


def terminal_table(rows: Sequence[Row]) -> str:
    """A plain-text table a direction: method x mode down, subsets across (size, groups and chance over each)."""
    label = run_labeller(rows)
    tables = []
    for direction in ordered([row["direction"] for row in rows], list(DIRECTION_NAMES)):
        chosen = sorted((row for row in rows if row["direction"] == direction), key=sort_key)
        subsets = ordered([row["subset"] for row in chosen], ["all"])
        heads = [head_lines(next(row for row in chosen if row["subset"] == subset)) for subset in subsets]
        grid = [["", "", *line] for line in zip(*heads, strict=True)]
        lines: dict[tuple[str, str], dict[str, str]] = {}
        for row in chosen:
            lines.setdefault((label(row), mode_label(row)), {})[row["subset"]] = percent_cell(row)
        grid += [[*names, *(cells.get(subset, "-") for subset in subsets)] for names, cells in lines.items()]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        grid.insert(len(heads[0]), ["-" * width for width in widths])
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in grid]
        title = f"{direction}, {DIRECTION_NAMES.get(direction, direction)}: R@1 in percent [95 % interval]"
        tables.append("\n".join([title, *("  ".join(line).rstrip() for line in padded)]))
    return "\n\n".join(tables)


def markdown_tables(rows: Sequence[Row], differences: Mapping[tuple[str, str, str], tuple[float, float, float]]) -> str:
    """R@1 of every method and mode by direction, and the paired differences between methods, as Markdown.

    `differences`: (trained_with, trained_with, subset) -> mean, low, high, as significance.differences gives them.
    """
    rows = [row for row in rows if row["k"] is None]
    label = run_labeller(rows)
    subsets = ordered([row["subset"] for row in rows], ["all"])
    lines = []
    for direction in ordered([row["direction"] for row in rows], list(DIRECTION_NAMES)):
        chosen = sorted((row for row in rows if row["direction"] == direction), key=sort_key)
        heads = [head_lines(next(row for row in chosen if row["subset"] == subset)) for subset in subsets]
        lines += [f"R@1 in percent [95 % interval], {DIRECTION_NAMES.get(direction, direction)}:", ""]
        lines += _markdown_head(["trained", "ranked by"], heads)
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in chosen:
            cells.setdefault((label(row), mode_label(row)), {})[row["subset"]] = percent_cell(row)
        lines += [_markdown_line([*names, *(found[subset] for subset in subsets)]) for names, found in cells.items()]
        lines.append("")
    lines += [
        "R@1 of the first less that of the second, each by its own retrieval, mean of both directions:",
        "",
    ]
    lines += _markdown_head(["first", "second"], [[subset] for subset in subsets])
    for first, second in dict.fromkeys(key[:2] for key in differences):
        found = [_difference_cell(*differences[first, second, subset]) for subset in subsets]
        lines.append(_markdown_line([_trained_label(first), _trained_label(second), *found]))
    return "\n".join([*lines, "", "(=): the interval holds 0, the two do not differ.", ""])


def _trained_label(trained_with: str) -> str:
    return method_label({"method": "cav" if trained_with == "cosine" else "scav", "trained_with": trained_with})


def _difference_cell(mean: float, low: float, high: float) -> str:
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" + (" (=)" if low <= 0 <= high else "")


def _markdown_head(names: Sequence[str], heads: Sequence[Sequence[str]]) -> list[str]:
    cells = [*names, *("<br>".join(head) for head in heads)]
    return [_markdown_line(cells), "|---" * len(cells) + "|"]


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
