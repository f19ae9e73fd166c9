"""The pictures and tables of docs/concepts.md, computed: `python -m docs.figures [NAME ...]` writes both anew.

A figure is a function: () -> (picture, rows of its table, the first the heading). Sequences are made by formulas, so
that every run gives the same numbers.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from configs import base
from scav_jax import training
from scav_jax.distances import alignment, marginal_error, pairwise
from scav_jax.plots import COLOURS

DOCS = Path(__file__).parent
INK, MUTED, PAPER = "#1f2430", "#6b7280", "#ffffff"
POSITIVE, NEGATIVE = COLOURS["scav", "dtw"], "#cfe3f5"
DISTANCES = {
    "cosine of the means": ("cosine", {}),
    "interpolated Euclidean": ("euclidean", {}),
    "soft-DTW": ("dtw", {}),
    "Wasserstein, `position_weight=0`": ("wasserstein", {"position_weight": 0.0}),
    "Wasserstein, `position_weight=1`": ("wasserstein", {"position_weight": 1.0}),
}
Rows = list[tuple[str, ...]]


def mean() -> tuple[Figure, Rows]:
    """Two melodies of the same notes in two orders, and the mean over time that they share."""
    first, second = melody((0, 2, 4, 7, 5, 3)), melody((5, 7, 0, 3, 2, 4))
    figure = canvas(8, 3.5)
    grid = figure.subplots(2, 2, width_ratios=(4, 1), sharey=True)
    for (left, right), frames, name in zip(grid, (first, second), ("one clip", "another clip"), strict=True):
        left.imshow(frames.T, cmap="Blues", origin="lower", aspect="auto")
        left.set_title(f"{name}: frames over time", loc="left")
        left.set(xticks=[], yticks=[], ylabel="feature")
        right.barh(range(frames.shape[1]), frames.mean(axis=0), color=COLOURS["scav", "euclidean"])
        right.set_title("its mean", loc="left")
        right.set(xticks=[])
        right.spines[["top", "right", "bottom"]].set_visible(False)
    rows: Rows = [("distance", "to itself", "to the other order")]
    for label, (name, options) in DISTANCES.items():
        rows.append((label, *(number(distance(name, first, y, **options)) for y in (first, second))))
    return figure, rows


def lengths() -> tuple[Figure, Rows]:
    """One turn seen as 12 frames at an even pace and as 30 steps that hurry first: which goes with which."""
    even, hurried = (np.arange(12) + 0.5) / 12, ((np.arange(30) + 0.5) / 30) ** 0.5
    x, y = directions(even), directions(hurried)
    figure = canvas(8, 3.6)
    ways = {"Interpolation": ("euclidean", {}), "DTW": ("dtw", {"gamma": 0})}
    rows: Rows = [("distance", "to the same turn at another pace", "to one at the same pace")]
    steady = directions((np.arange(30) + 0.5) / 30)
    for place, (label, (name, options)) in enumerate(ways.items()):
        panel = matched(figure, (1, 2, place + 1), x, y, alignment(name, x, y, **options))
        panel.set_title(label, loc="left")
        rows.append((label, *(number(distance(name, x, other, **options)) for other in (y, steady))))
    return figure, rows


def negatives() -> tuple[Figure, Rows]:
    """All pairs of a batch of 16 in micro-batches of 4, and the pairs of four batches of 4."""
    whole = np.where(np.eye(16, dtype=bool), 2, 1)
    blocks = np.kron(np.eye(4, dtype=int), np.ones((4, 4), int)) * whole
    figure = canvas(8, 3.9)
    panels = figure.subplots(1, 2)
    titles = "one batch of 16, micro-batches of 4", "four batches of 4, gradients averaged"
    colours = matplotlib.colors.ListedColormap([PAPER, NEGATIVE, POSITIVE])
    for panel, pairs, title in zip(panels, (whole, blocks), titles, strict=True):
        panel.pcolormesh(pairs, cmap=colours, vmin=0, vmax=2, edgecolors="white", linewidth=1)
        panel.set_title(f"{title}:\n{(pairs[0] == 1).sum()} negatives a positive", loc="left")
        panel.set(xticks=np.arange(2, 16, 4), yticks=np.arange(2, 16, 4), aspect="equal")
        panel.set_xticklabels(["4 clips"] * 4)
        panel.set_yticklabels(["4 clips"] * 4, rotation=90, va="center")
        panel.set(xlabel="audio", ylabel="visual")
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.invert_yaxis()
    return figure, gradient_rows()


def gamma() -> tuple[Figure, Rows]:
    """What soft-DTW makes of a sequence and itself as gamma grows."""
    turn = directions((np.arange(16) + 0.5) / 16)
    other = directions(((np.arange(16) + 0.5) / 16) ** 0.5)
    figure = canvas(8, 3.0)
    rows: Rows = [("`gamma`", "to itself", "to another pace", "to another pace, `debiased=True`")]
    for place, value in enumerate((0, 0.1, 1.0)):
        panel = matched(figure, (1, 3, place + 1), turn, turn, alignment("dtw", turn, turn, gamma=value))
        own = number(distance("dtw", turn, turn, gamma=value))
        panel.set_title(f"gamma {value:g}: to itself {own}", loc="left")
        far = [number(distance("dtw", turn, other, gamma=value, debiased=debiased)) for debiased in (False, True)]
        rows.append((f"{value:g}", own, *far))
    return figure, rows


def epsilon() -> tuple[Figure, Rows]:
    """What entropic transport makes of a sequence and itself as epsilon grows."""
    turn = directions((np.arange(16) + 0.5) / 16)
    figure = canvas(8, 3.0)
    heading = "`epsilon`", "steps that a frame is spread over", "to itself", "worst marginal error after 100 iterations"
    rows: Rows = [heading]
    for place, value in enumerate((0.01, 0.1, 1.0)):
        plan = np.asarray(alignment("wasserstein", turn, turn, epsilon=value))
        panel = matched(figure, (1, 3, place + 1), turn, turn, plan)
        panel.set_title(f"epsilon {value:g}: {spread(plan)} steps a frame", loc="left")
        own = number(distance("wasserstein", turn, turn, epsilon=value))
        error = small(marginal_error(turn[None], turn[None], epsilon=value))
        rows.append((f"{value:g}", spread(plan), own, error))
    return figure, rows


def position_weight() -> tuple[Figure, Rows]:
    """Where the mass of a sequence goes in its own reverse, for three prices of a shift in time."""
    turn = directions((np.arange(16) + 0.5) / 16)
    figure = canvas(8, 3.0)
    rows: Rows = [("`position_weight`", "to itself", "to its reverse")]
    for place, weight in enumerate((0.0, 1.0, 4.0)):
        options = dict(position_weight=weight, epsilon=0.05)
        plan = alignment("wasserstein", turn, turn[::-1], **options)
        panel = matched(figure, (1, 3, place + 1), turn, turn[::-1], plan)
        found = [number(distance("wasserstein", turn, y, **options)) for y in (turn, turn[::-1])]
        panel.set_title(f"weight {weight:g}: to its reverse {found[1]}", loc="left")
        rows.append((f"{weight:g}", *found))
    return figure, rows


FIGURES: dict[str, Callable[[], tuple[Figure, Rows]]] = {
    figure.__name__: figure for figure in (mean, lengths, negatives, gamma, epsilon, position_weight)
}


def melody(notes: Sequence[int]) -> np.ndarray:
    """(4 frames a note, 8 features): each note is a bump around its feature that dies away."""
    bumps = np.exp(-((np.arange(8) - np.array(notes)[:, None]) ** 2) / 0.8)
    return (bumps[:, None] * 0.8 ** np.arange(4)[:, None]).reshape(-1, 8).astype(np.float32)


def directions(progress: np.ndarray) -> np.ndarray:
    """Progress (n,) in 0..1 -> unit frames (n, 2) that turn by half a circle."""
    return np.stack([np.cos(np.pi * progress), np.sin(np.pi * progress)], axis=1).astype(np.float32)


def distance(name: str, x: np.ndarray, y: np.ndarray, **options: Any) -> float:
    return float(pairwise(name, x[None], y[None], unit_norm=True, **options)[0, 0])


def spread(plan: np.ndarray) -> str:
    """exp of the entropy of a row of the plan: over how many steps a frame's mass goes, as if evenly."""
    rows = plan / plan.sum(axis=1, keepdims=True)
    entropies = -np.sum(rows * np.log(np.maximum(rows, 1e-30)), axis=1)
    return f"{np.exp(entropies.mean()):.1f}"


def gradient_rows() -> Rows:
    """Loss and gradient of small towers on 16 clips: whole, in micro-batches of 4, and of four batches of 4."""
    config = small_config()
    parameters = training.init(config).parameters
    batch = {"visual": waves(16, 6, 5), "audio": waves(16, 9, 4), "visual_mask": None, "audio_mask": None}
    micro = small_config(micro_batch_size=4)
    whole = jax.jit(lambda batch: training.gradient(config, parameters, batch, None))
    by_parts = jax.jit(lambda batch: training.gradient(micro, parameters, batch, None))
    parts = [whole(jax.tree.map(lambda leaf, i=i: leaf[4 * i : 4 * i + 4], batch)) for i in range(4)]
    averaged = jax.tree.map(lambda *leaves: sum(leaves) / 4, *parts)
    _, exact = whole(batch)
    rows: Rows = [("16 clips as", "negatives a positive", "loss", "gradient apart from that of one batch")]
    labels = "one batch", "one batch, `micro_batch_size=4`", "four batches of 4, averaged"
    for label, count, found in zip(labels, (15, 15, 3), (whole(batch), by_parts(batch), averaged), strict=True):
        (loss, _), gradient = found
        apart = norm(jax.tree.map(jnp.subtract, gradient, exact)) / norm(exact)
        rows.append((label, str(count), number(loss), small(apart)))
    return rows


def small_config(**changes: Any) -> Any:
    config = base.get_config()
    config.update(changes)
    for tower, width in ((config.model.visual, 5), (config.model.audio, 4)):
        tower.update(feature_width=width, width=8, mlp_width=8, num_heads=2, num_layers=1, ffn_width=8, dropout=0.0)
    return config


def waves(clips: int, length: int, width: int) -> np.ndarray:
    """(clips, length, width): every clip a mixture of its own."""
    clip, time, feature = np.ogrid[1 : clips + 1, 1 : length + 1, 1 : width + 1]
    return np.sin(clip * feature + 0.7 * time * feature / clip).astype(np.float32)


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree))))


def number(value: float) -> str:
    return f"{float(value) + 0.0:.3f}".replace("-0.000", "0.000")


def small(value: float) -> str:
    """Rounding differs from machine to machine: of it, only that it is rounding."""
    return "below 0.00001" if float(value) < 1e-5 else f"{float(value):.2g}"


def canvas(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def matched(figure: Figure, place: tuple[int, int, int], x: np.ndarray, y: np.ndarray, weights: Any) -> Any:
    """A panel of weights (n, m), each frame at the left and each step on top in the colour of its direction."""
    panel = figure.add_subplot(*place)
    n, m = len(x), len(y)
    panel.imshow(np.asarray(weights), cmap="Greys", aspect="auto", extent=(0, m, n, 0), vmin=0)
    for frames, extent in ((x[:, None], (-0.09 * m, -0.02 * m, n, 0)), (y[None], (0, m, -0.02 * n, -0.09 * n))):
        angles = np.arctan2(frames[..., 1], frames[..., 0]) / np.pi
        panel.imshow(matplotlib.colormaps["plasma"](angles * 0.9), aspect="auto", extent=extent)
    panel.set(xlim=(-0.09 * m, m), ylim=(n, -0.09 * n), xticks=[], yticks=[], xlabel=f"{m} steps", ylabel=f"{n} frames")
    panel.spines[:].set_visible(False)
    return panel


def table(rows: Rows) -> str:
    """Markdown of a table, the first row its heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def tables(page: str) -> dict[str, str]:
    """The tables that a page's text has between <!-- NAME --> and <!-- /NAME -->."""
    return dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- /\1 -->", page, re.DOTALL))


def write(name: str, folder: Path) -> str:
    """Draws one figure to folder/NAME.png, which also holds its table as text, and returns the table."""
    style = {"font.size": 9, "axes.titlesize": 9, "text.color": INK, "axes.labelcolor": MUTED, "axes.titlecolor": INK}
    with matplotlib.rc_context(style):
        figure, rows = FIGURES[name]()
        figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Description": table(rows), "Software": None})
    return table(rows)


def main(names: Sequence[str], out: Path) -> None:
    page = (DOCS / "concepts.md").read_text()
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name in names:
        page = page.replace(tables(page)[name], write(name, out / "figures"))
    (out / "concepts.md").write_text(page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(FIGURES)}; all unless given")
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder of concepts.md and figures/")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(FIGURES):
        parser.error(f"expected some of {', '.join(FIGURES)}, got {', '.join(sorted(unknown))}")
    main(arguments.names or list(FIGURES), arguments.out)
