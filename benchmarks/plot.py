"""The picture of benchmarks.distances: time and temporaries against the number of clips and their length."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scav_jax.plots import colour

COLUMNS = (("clips", "clips B (B x B pairs)"), ("length", "steps m of y"))
ROWS = (("seconds", "time of forward and gradient, s"), ("temporaries", "compiled temporaries, MiB"))
STYLES: dict[str, dict[str, Any]] = {
    "scav_jax": dict(linestyle="-", marker="o"),
    "ott-jax": dict(linestyle=(0, (4, 2)), marker="s"),
}
SHORT = {"euclidean": "Euclidean", "dtw": "soft-DTW", "wasserstein": "Wasserstein"}


class Point(NamedTuple):
    """`seconds` is NaN where the program does not fit; axis: what the picture shows it against, "clips" or "length"."""

    who: str
    distance: str
    clips: int
    n: int
    m: int
    seconds: float
    temporaries: int
    axis: str


def draw(points: Sequence[Point], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.6), layout="constrained", dpi=140)
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2)
    for column, (axis, x_label) in enumerate(COLUMNS):
        shown = [point for point in points if point.axis == axis]
        for row, (quantity, y_label) in enumerate(ROWS):
            panel(grid[row][column], shown, axis, quantity)
            grid[row][column].set(xlabel=x_label, ylabel=y_label)
        if shown:
            grid[0][column].set_title(caption(shown[0], axis), loc="left", fontsize=10)
    figure.suptitle("Solid: scav_jax. Dashed: ott-jax, all pairs at once by vmap.", x=0.01, ha="left", fontsize=11)
    figure.savefig(path)


def caption(point: Point, axis: str) -> str:
    if axis == "clips":
        return f"{point.n} frames against {point.m} steps"
    return f"{point.clips} x {point.clips} pairs, {point.n} frames against m steps"


def panel(axes, points: Sequence[Point], axis: str, quantity: str) -> None:
    ends: list[tuple[float, float, str, str]] = []
    across: list[int] = []
    for who, distance in dict.fromkeys((point.who, point.distance) for point in points):
        line = [point for point in points if (point.who, point.distance) == (who, distance)]
        places = [point.clips if axis == "clips" else point.m for point in line]
        values = [point.seconds if quantity == "seconds" else point.temporaries / 2**20 for point in line]
        kept = [(place, value) for place, value in zip(places, values, strict=True) if value > 0]
        across += places
        if not kept:
            continue
        shade = colour("scav", distance)
        axes.plot(*zip(*kept, strict=True), color=shade, linewidth=1.8, markersize=5, **STYLES[who])
        label = SHORT[distance] + (", ott" if who == "ott-jax" else "")
        ends.append((*kept[-1], label, shade))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted(set(across)), [str(place) for place in sorted(set(across))], minor=False)
    axes.minorticks_off()
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    label_ends(axes, ends)


def label_ends(axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Each line's name right of its last point, moved apart where two would overlap."""
    from matplotlib.patheffects import withStroke

    if not ends:
        return
    low, high = (math.log10(limit) for limit in axes.get_ylim())
    gap, right = (high - low) / 16, max(place for place, *_ in ends)
    ends = sorted(ends, key=lambda end: end[1])
    heights = [math.log10(value) for _, value, *_ in ends]
    for i in range(1, len(heights)):
        if ends[i][0] == ends[i - 1][0]:
            heights[i] = max(heights[i], heights[i - 1] + gap)
    for (place, value, label, shade), height in zip(ends, heights, strict=True):
        up = (height - math.log10(value)) / (high - low) * axes.bbox.height * 72 / axes.figure.dpi
        axes.annotate(
            label if place == right else f"{label} (then too large)",
            (place, value),
            xytext=(8, up) if place == right else (-8, 4),
            textcoords="offset points",
            color=shade,
            fontsize=9,
            ha="left" if place == right else "right",
            va="center" if place == right else "bottom",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            annotation_clip=False,
        )
    left, _ = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.32)  # room for the names
