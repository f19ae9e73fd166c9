"""Tables of a benchmark: what was asked for beside what came out, in Markdown."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.measure import Comparison

COMPARED = (
    *("what", "ours", "peer", "its time", "ratio", "target", "met", "values apart", "gradients apart"),
    *("temporaries, ours", "peer's", "ratio", "target", "met"),
)
NONE = "-"


@dataclass
class Table:
    title: str
    columns: tuple[str, ...]
    intro: str = ""
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        widths = [max(map(len, cells)) for cells in zip(self.columns, *self.rows, strict=True)]
        lines = [f"## {self.title}", ""] + [self.intro, ""] * bool(self.intro)
        for cells in (self.columns, tuple("-" * width for width in widths), *self.rows):
            lines.append("| " + " | ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)) + " |")
        lines += [""] * bool(self.notes) + [f"- {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def verdicts(self) -> list[bool]:
        """Of all targets of the table, whether they are met."""
        return [cell.startswith("yes") for row in self.rows for cell in row if cell.split(",")[0] in ("yes", "no")]


class Job(NamedTuple):
    """What adds rows to a table, and what the progress bar calls it."""

    table: Table
    label: str
    rows: Callable[[], list[tuple[str, ...]]]


def compared(
    what: str, result: Comparison, target: float | None, stretch: float | None, memory_target: float | None
) -> tuple[str, ...]:
    """A row of COMPARED."""
    peer, ours_bytes = result.peer, result.ours.temporaries
    if peer is None:
        return what, seconds(result.ours_s), "none", *[NONE] * 6, size(ours_bytes), *[NONE] * 4
    memory = peer.temporaries / max(1, ours_bytes) if peer.temporaries is not None and ours_bytes is not None else None
    return (
        *(what, seconds(result.ours_s), peer.name, seconds(result.peer_s), times(result.ratio)),
        *(at_least(target, stretch), met(result.ratio, target, stretch)),
        *(relative(result.value_difference), relative(result.gradient_difference)),
        *(size(ours_bytes), size(peer.temporaries), times(memory)),
        *(at_least(memory_target), met(memory, memory_target)),
    )


def absent(what: str, reason: str) -> tuple[str, ...]:
    """A row of COMPARED for a peer that does not run here."""
    return what, NONE, reason, *[NONE] * (len(COMPARED) - 3)


def at_least(target: float | None, stretch: float | None = None) -> str:
    if target is None:
        return NONE
    return f">= {target:g}x" + (f" ({stretch:g}x)" if stretch else "")


def met(value: float | None, target: float | None, stretch: float | None = None) -> str:
    if target is None or value is None:
        return NONE
    return "no" if not value >= target else "yes, stretch too" if stretch and value >= stretch else "yes"


def within(value: float, limit: float | None) -> str:
    """Whether a value that is to be small is."""
    return NONE if limit is None else "yes" if value <= limit else "no"


def times(ratio: float | None) -> str:
    if ratio is None or math.isnan(ratio):
        return NONE
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def relative(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.0e}"


def seconds(value: float) -> str:
    if math.isnan(value):
        return NONE
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def size(value: float | None) -> str:
    if value is None:
        return NONE
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 2**10:.3g} KiB"
