"""Rows and curves of a comparison as a terminal table, as JSON, and as a page with the curves laid over each other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scav_jax.page import render
from scav_jax.parity.compare import Row
from scav_jax.parity.curves import THEIRS, Curve

SHOWN = 8  # of the rows that differ, in the terminal
KINDS = {
    "module": "modules, each fed with theirs",
    "towers": "whole towers",
    "distance": "distances of their sequences",
    "loss": "losses of their distances",
    "whole loss": "losses, from the features",
    "gradient": "gradients of every parameter",
    "update": "one optimiser step",
}


@dataclass
class Report:
    """rows: precision -> all that was compared at it. complete: all that was asked for has been compared."""

    title: str
    about: dict[str, str]
    rows: dict[str, list[Row]]
    curves: list[Curve] = field(default_factory=list)
    complete: bool = False

    @property
    def first(self) -> dict[str, Row]:
        """precision -> the first row that differs: where to look."""
        differing = {name: [row for row in rows if not row.agrees] for name, rows in self.rows.items()}
        return {name: rows[0] for name, rows in differing.items() if rows}

    @property
    def agrees(self) -> bool:
        return not self.first and all(curve.agrees for curve in self.curves)

    @property
    def verdict(self) -> str:
        return ("agrees" if self.agrees else "DIFFERS") + " so far" * (not self.complete)

    def save(self, folder: Path) -> None:
        """parity.json and parity.html."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "title": self.title,
            "about": self.about,
            "agrees": self.agrees,
            "complete": self.complete,
            "first": {name: f"{row.kind} {row.name}" for name, row in self.first.items()},
            "rows": {name: [row.as_dict() for row in rows] for name, rows in self.rows.items()},
            "curves": [curve.as_dict() for curve in self.curves],
        }
        (folder / "parity.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / "parity.html").write_text(self._page())

    @classmethod
    def load(cls, folder: Path) -> "Report":
        """What `save` wrote."""
        said = json.loads((folder / "parity.json").read_text())
        found = {
            name: [Row(**{key: value for key, value in row.items() if key != "verdict"}) for row in rows]
            for name, rows in said["rows"].items()
        }
        curves = [
            Curve(curve["distance"], curve["precision"], _arrays(curve["losses"]), curve["recall"])
            for curve in said["curves"]
        ]
        return cls(said["title"], said["about"], found, curves, said["complete"])

    def text(self, *, every_row: bool = False) -> str:
        """Of every kind the worst row; `every_row`: all of them."""
        lines = [self.title, *(f"  {key}: {value}" for key, value in self.about.items())]
        for precision, rows in self.rows.items():
            lines += ["", *_aligned([("precision " + precision, *HEAD), *(_summary(*kind) for kind in _kinds(rows))])]
            if every_row:
                lines += ["", *_aligned([("array", *ROW_HEAD), *(_cells(row) for row in rows)])]
            differing = [row for row in rows if not row.agrees]
            if differing:
                lines += ["", f"first to differ: {differing[0].kind} {differing[0].name}"]
                lines += _aligned([("array", *ROW_HEAD), *map(_cells, differing[:SHOWN])])
                lines += [f"... and {len(differing) - SHOWN} more"] * (len(differing) > SHOWN)
        if self.curves:
            lines += ["", *_aligned([CURVE_HEAD, *map(curve_cells, self.curves)])]
        lines += ["", self.verdict]
        return "\n".join(lines)

    def _page(self) -> str:
        from markupsafe import Markup

        return render(
            "parity/parity.html",
            title=self.title,
            about=self.about,
            agrees=self.agrees,
            verdict=self.verdict,
            first={name: f"{row.kind} {row.name}" for name, row in self.first.items()},
            tables=[
                {
                    "precision": precision,
                    "head": HEAD,
                    "kinds": [(_summary(*kind), all(row.agrees for row in kind[1])) for kind in _kinds(rows)],
                    "row_head": ROW_HEAD,
                    "rows": [(_cells(row), row.agrees) for row in rows],
                }
                for precision, rows in self.rows.items()
            ],
            curve_head=CURVE_HEAD,
            curve_rows=[(curve_cells(curve), curve.agrees) for curve in self.curves],
            plots=[(title, Markup(svg)) for curve in self.curves for title, svg in _plots(curve)],
        )


def _arrays(losses: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in losses.items()}


HEAD = ("arrays", "worst relative", "at", "limit", "verdict")
ROW_HEAD = ("max absolute", "relative", "cosine", "limit", "ours to float64", "theirs to float64", "verdict")
CURVE_HEAD = ("training", "precision", "curves apart", "limit", "R@1 theirs", "R@1 ours", "+-", "verdict")


def summary_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """One line a kind, its worst row."""
    return [_summary(*kind) for kind in _kinds(rows)]


def _kinds(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for kind, title in KINDS.items():
        if chosen := [row for row in rows if row.kind == kind]:
            yield title, chosen


def _summary(title: str, rows: list[Row]) -> tuple[str, ...]:
    verdict = _verdict(all(row.agrees for row in rows))
    if verdict == "ok" and any(row.excused for row in rows):
        verdict = "ok, theirs rounds"
    worst = max(rows, key=lambda row: np.inf if np.isnan(row.relative) else row.relative)
    return (
        title,
        str(len(rows)),
        f"{worst.relative:.1e}",
        worst.name,
        f"{worst.tolerance:g}",
        verdict,
    )


def _cells(row: Row) -> tuple[str, ...]:
    offs = ["" if off is None else f"{off:.1e}" for off in (row.ours_off, row.theirs_off)]
    numbers = f"{row.max_absolute:.1e}", f"{row.relative:.1e}", f"{row.cosine:.10f}", f"{row.tolerance:g}"
    return f"{row.kind} {row.name}", *numbers, *offs, row.verdict


def curve_cells(curve: Curve) -> tuple[str, ...]:
    """A row of the table of curves, as text; both directions in one cell."""

    def by_direction(write):
        return " / ".join(write(found) for found in curve.recall.values()) or "-"

    return (
        curve.distance,
        curve.precision,
        f"{curve.apart:.1e}",
        f"{curve.limit:.1e}",
        by_direction(lambda found: f"{found['theirs']:.2f}"),
        by_direction(lambda found: f"{found['ours']:.2f}"),
        by_direction(lambda found: f"{found['half_interval']:.2f}"),
        _verdict(curve.agrees),
    )


def _verdict(agrees: bool) -> str:
    return "ok" if agrees else "DIFFERS"


def _plots(curve: Curve) -> Iterator[tuple[str, str]]:
    from scav_jax import plots

    key = ("cav" if curve.distance == "cosine" else "scav", curve.distance)
    drawn = [
        plots.Curve(name, ("", "") if name == THEIRS else key, range(1, len(losses) + 1), losses.tolist(), style)
        for style, (name, losses) in enumerate(curve.losses.items())
    ]
    title = f"{curve.distance}, {curve.precision}"
    yield title, plots.curves_svg(drawn, title=title, y_label="loss", markers=False)
    reference = curve.losses[THEIRS]
    apart = [
        plots.Curve(f"{name} to theirs", key, drawn[0].steps, list(np.abs(losses / reference - 1)), style)
        for style, (name, losses) in enumerate(curve.losses.items())
        if name != THEIRS
    ]
    title = f"{curve.distance}, {curve.precision}: apart"
    yield title, plots.curves_svg(apart, title=title, y_label="relative difference", markers=False, log=True)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def about(reference: Mapping[str, Any], said: str) -> dict[str, str]:
    """Who was compared on what."""
    import jax

    device = jax.devices()[0]
    return {
        "theirs": f"{reference.get('by', 'a dump')}, {reference.get('precision', 'float32')}",
        "ours": f"jax {jax.__version__} on {device.device_kind} ({device.platform})",
        "of": said,
    }
