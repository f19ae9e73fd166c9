"""Hybrid retrieval at every k, and what disturbed queries lose: two tables of the demo's runs.

python -m benchmarks.frontier     writes benchmarks/results/frontier.md; wants runs/demo (make demo)
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import page, tables
from benchmarks.settings import METHODS
from benchmarks.tables import Table
from scav_jax.frontier import smallest_k
from scav_jax.results import DIRECTION_NAMES, DISTANCE_NAMES, Row, load_run, method_label, mode_label, run_rows

RUNS = [Path("runs/demo") / f"{name}-seed0" for name in METHODS]
PROBED_SUBSETS = ("order", "semantic")


def frontier_table() -> Table:
    table = Table(
        "Hybrid retrieval",
        (
            *("trained, ranked by", "direction", "search", "R@1, % [95 %]", "certified exact", "ms a query"),
            *("distances, median", "worst"),
        ),
        "The demo's whole test gallery, each run by the distance it was trained with; times, certificates and counts "
        "of 256 queries, the ten nearest. Certified: answers proven to be those of sequence retrieval.",
    )
    for path in RUNS[1:]:
        run = load_run(path)
        for direction in DIRECTION_NAMES:
            rows = [row for row in run.frontier if row["direction"] == direction]
            for row in rows:
                table.rows.append(
                    (
                        *(DISTANCE_NAMES[row["distance"]], direction),
                        row["mode"] + (f" k={row['k']}" if row["k"] else ""),
                        f"{row['R@1']:.1f} [{row['R@1_low']:.1f}-{row['R@1_high']:.1f}]",
                        tables.NONE if row["certified"] is None else f"{row['certified']:.0f} %",
                        *(f"{row['ms_per_query']:.3g}", f"{row['computed_median']:.0f}", str(row["computed_max"])),
                    )
                )
            name = f"{DISTANCE_NAMES[rows[0]['distance']]}, {direction}"
            table.notes.append(
                f"{name}: the smallest k within one interval of sequence retrieval is {smallest_k(rows)}."
            )
    return table


def probes_table(subset: str) -> Table:
    runs = [load_run(path) for path in RUNS]
    heads = list(dict.fromkeys(_head(row) for run in runs for row in run.probes))
    table = Table(
        f"Disturbed queries, {subset}",
        ("trained, ranked by", "direction", "clean", *heads),
        f"R@1 in percent on `{subset}`: of clean queries, then what is lost where the queries' features are disturbed, "
        "with its paired 95 % interval. The probes are described in scav_jax/probes.py.",
    )
    for run in runs:
        facts = run_rows(run)[0]
        clean = {_place(row): row["R@1"] for row in run.results}
        lines: dict[tuple, dict[str, Row]] = {}
        for row in run.probes:
            if row["subset"] == subset:
                lines.setdefault(_place(row), {})[_head(row)] = row
        for place, cells in lines.items():
            row = next(iter(cells.values()))
            table.rows.append(
                (
                    *(f"{method_label(facts)}, {mode_label({**facts, **row})}", row["direction"]),
                    f"{clean[place]:.1f}",
                    *(f"{c['lost']:.1f} [{c['lost_low']:.1f}, {c['lost_high']:.1f}]" for c in cells.values()),
                )
            )
    return table


def _head(row: Row) -> str:
    return f"{row['probe']} {row['strength']:g}"


def _place(row: Row) -> tuple:
    return tuple(row[field] for field in ("mode", "distance", "direction", "subset", "k"))


def main() -> None:
    evaluated = [path / "eval" / "metrics.json" for path in RUNS]
    if not all(path.exists() and "frontier" in json.loads(path.read_text()) for path in evaluated):
        subprocess.run([sys.executable, "demo.py"], check=True)
    found = [frontier_table(), *(probes_table(subset) for subset in PROBED_SUBSETS)]
    page.write("frontier", page.page("frontier", "Retrieval: accuracy, time, and what it looks at", found))


if __name__ == "__main__":
    main()
