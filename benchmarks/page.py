"""What the benchmarks share: their command lines, and the pages of results/ with the command and the machine."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.tables import Table

RESULTS = Path(__file__).parent / "results"


def parser(text: str | None, *, quick: str = "") -> argparse.ArgumentParser:
    """Of a module's docstring; with --quick where it says what that does."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if quick:
        found.add_argument("--quick", action="store_true", help=quick)
    return found


def page(name: str, title: str, parts: Sequence[Table | str], *, about: str = "") -> str:
    """Of `python -m benchmarks.NAME`: the head, `about` behind the machine, then the tables, or texts."""
    head = f"# {title}\n\nCommand: `python -m benchmarks.{name}`. {measure.hardware()}{about}.\n"
    return "\n".join([head, *(part if isinstance(part, str) else part.markdown() for part in parts)])


def write(name: str, text: str, *, keep: bool = True) -> None:
    """Prints the page; `keep`: writes it to results/NAME.md, too."""
    if keep:
        (RESULTS / f"{name}.md").write_text(text)
    print(text)
