"""What `python -m scav_jax.parity` finds, kept: the demo's towers, and the paper's.

python -m benchmarks.parity     writes benchmarks/results/parity.md; wants the store of make demo; about an hour
python -m benchmarks.parity --only="The paper's towers"     one comparison anew, the others as runs/parity has them
"""

import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks import page, torch_parts
from benchmarks.tables import Table
from scav_jax.parity import report
from scav_jax.parity.__main__ import DIFFERS
from scav_jax.parity.report import Report

KEPT = Path("runs/parity")
COMMANDS = {
    "The demo's towers": [],
    "The paper's towers": ["--config=paper", "--steps=0"],
    "The paper's training in float64": ["--config=paper", "--distances=euclidean", "--precision=float64"],
    "The paper's training in float32": ["--config=paper", "--distances=euclidean", "--precision=float32"],
}


def compare(title: str) -> None:
    """One command, which may find differences but must come to its end."""
    command = [sys.executable, "-m", "scav_jax.parity", *COMMANDS[title], f"--out={folder(title)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, DIFFERS):
        raise RuntimeError(done.stderr)


def folder(title: str) -> Path:
    return KEPT / title.lower().replace(" ", "-").replace("'", "")


def made(title: str) -> list[Table]:
    """The tables of what a command found."""
    found = Report.load(folder(title))
    command = " ".join(["python -m scav_jax.parity", *COMMANDS[title]])
    said = f"`{command}`: {found.about['of']}. **{found.verdict.capitalize()}.**"
    tables = [
        Table(f"{title}, {precision}", ("compared", *report.HEAD), said, rows=report.summary_rows(rows))
        for precision, rows in found.rows.items()
    ]
    if found.curves:
        lines = [report.curve_cells(curve) for curve in found.curves]
        tables.append(Table(f"{title}, curves", report.CURVE_HEAD, said, rows=lines))
    return tables


def main() -> None:
    parser = page.parser(__doc__)
    parser.add_argument("--only", choices=COMMANDS, help="(default: all of them)")
    only = parser.parse_args().only
    for title in tqdm([only] if only else COMMANDS):
        compare(title)
    tables = [table for title in COMMANDS for table in made(title)]
    about = f", {torch_parts.version('torch')}. How to read it: [docs/parity.md](../../docs/parity.md)"
    page.write("parity", page.page("parity", "Ours beside plain PyTorch", tables, about=about))


if __name__ == "__main__":
    main()
