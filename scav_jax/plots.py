"""Curves and points as inline SVG that takes its ink from the page: one drawing serves the light and the dark theme."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

# Okabe and Ito's palette, told apart by colour-blind readers; one colour a trained method, the same in every plot.
COLOURS = {
    ("cav", "cosine"): "#e69f00",
    ("scav", "euclidean"): "#2e8bd0",
    ("scav", "dtw"): "#009e73",
    ("scav", "wasserstein"): "#cc79a7",
}
OTHER_COLOUR = "#8a8f98"
INK = "#010203"  # a colour that nothing else has: replaced by currentColor
LINE_STYLES = ("-", "--", ":", "-.")
MAX_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """One line of a plot: steps and values of equal length; `key` picks the colour, `style` the dash."""

    label: str
    key: tuple[str, str]
    steps: Sequence[float | int]
    values: Sequence[float]
    style: int = 0


def colour(method: str, trained_with: str) -> str:
    """The colour of a trained method, in every plot and table."""
    return COLOURS.get((method, trained_with), OTHER_COLOUR)


def curves_svg(
    curves: Sequence[Curve],
    *,
    title: str,
    y_label: str,
    lines: Mapping[str, float] | None = None,
    smooth: bool = False,
    markers: bool = True,
    log: bool = False,
) -> str:
    """Curves over training steps -> one <svg> element. `lines`: labelled horizontal levels, such as chance.

    smooth: a running mean over a twentieth of the run, the raw values faint behind it. markers: a dot at every value
    that is not smoothed. log: a logarithmic axis of values. All text is escaped.
    """
    with _drawing(title) as (axes, finished):
        labelled: set[str] = set()
        for curve in curves:
            steps, values = _thinned(curve.steps), np.asarray(_thinned(curve.values), float)
            style: dict[str, Any] = {"color": colour(*curve.key), "linewidth": 1.6}
            style["linestyle"] = LINE_STYLES[curve.style % len(LINE_STYLES)]
            if smooth:
                axes.plot(steps, values, color=style["color"], alpha=0.25, linewidth=0.8)
                values = _running_mean(values, max(1, len(values) // 20))
            marker = "o" if markers and not smooth else ""
            label = "" if curve.label in labelled else curve.label  # curves of one name share an entry
            labelled.add(curve.label)
            axes.plot(steps, values, label=label, marker=marker, markersize=3, **style)
        for label, level in (lines or {}).items():
            axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6)
            axes.annotate(label, (0.01, level), xycoords=("axes fraction", "data"), xytext=(0, 3),
                          textcoords="offset points", fontsize=8)  # fmt: skip
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if smooth else 0)
        axes.set(xlabel="training step", ylabel=y_label)
    return finished()


@dataclass(frozen=True)
class Point:
    """A way of searching: milliseconds a query, R@1 in percent; `k` of hybrid retrieval, whose points are joined."""

    mode: str
    ms: float
    recall: float
    k: int | None = None


MARKERS = {"aggregate": "v", "hybrid": "o", "exact": "*", "sequence": "s"}


def frontier_svg(series: Mapping[tuple[str, tuple[str, str]], Sequence[Point]], *, title: str) -> str:
    """Accuracy against latency, (label, colour key) -> points, as one <svg> element. The better is up and left."""
    with _drawing(title) as (axes, finished):
        for (label, key), points in series.items():
            hybrid = sorted((point for point in points if point.mode == "hybrid"), key=lambda point: point.k or 0)
            axes.plot([p.ms for p in hybrid], [p.recall for p in hybrid], color=colour(*key), linewidth=0.9, alpha=0.7)
            for mode, marker in MARKERS.items():
                chosen = [point for point in points if point.mode == mode]
                size = 9 if mode == "exact" else 4 if mode == "hybrid" else 6
                places = [p.ms for p in chosen], [p.recall for p in chosen]
                axes.plot(*places, linestyle="", marker=marker, markersize=size, color=colour(*key))
            axes.plot([], [], color=colour(*key), linewidth=2, label=label)
        for mode, marker in MARKERS.items():
            axes.plot([], [], linestyle="", marker=marker, color=INK, label=mode)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
        axes.xaxis.set_minor_formatter(lambda ms, _: "")
        axes.set_ylim(0, 1.08 * max((p.recall for points in series.values() for p in points), default=1) or 1)
        axes.set(xlabel="milliseconds a query", ylabel="R@1 (%)")
    return finished()


@contextmanager
def _drawing(title: str) -> Iterator[tuple[Any, Callable[[], str]]]:
    """(axes, what gives the element once the block is left)."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "text.parse_math": False,  # a run's name may hold a dollar sign
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    buffer = io.StringIO()
    with rc_context(settings):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        yield axes, lambda: _inline(buffer.getvalue(), title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.18, color=INK)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})


def _inline(svg: str, title: str) -> str:
    """A document -> an element of the page: no prolog, no metadata, no fixed size, no ids that two plots share."""
    from markupsafe import escape

    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    prefix = "p" + re.sub(r"\W", "", title)
    body = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", body).replace(INK, "currentColor")
    head = f'<svg role="img" aria-label="{escape(title)}"'
    return re.sub(r'\A<svg([^>]*?) width="[^"]*"', rf"{head}\1", re.sub(r' height="[^"]*"', "", body, count=1), count=1)


def _thinned(values: Sequence[float | int]) -> Sequence[float | int]:
    return values[:: -(-len(values) // MAX_POINTS)]


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the last `width` values, fewer at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)
