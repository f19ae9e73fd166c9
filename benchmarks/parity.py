"""What `python -m scav_jax.parity` finds, kept: the demo's towers, and the paper's.

python -m benchmarks.parity     writes benchmarks/results/parity.md; wants the store of make demo; about an hour
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
    "The paper's towers": ["--config=paper", "--batch-size=4"],
}


def compare(title: str, arguments: list[str]) -> list[Table]:
    """The tables of one command, which may find differences but must come to its end."""
    out = KEPT / title.lower().replace(" ", "-").replace("'", "").replace(",", "")
    command = ["-m", "scav_jax.parity", *arguments]
    done = subprocess.run([sys.executable, *command, f"--out={out}"], capture_output=True, text=True, check=False)
    if done.returncode not in (0, DIFFERS):
        raise RuntimeError(done.stderr)
    found = Report.load(out)
    said = f"`python {' '.join(command)}`: {found.about['of']}. **{'Agrees' if found.agrees else 'Differs'}.**"
    tables = [
        Table(f"{title}, {precision}", ("compared", *report.HEAD), said, rows=report.summary_rows(rows))
        for precision, rows in found.rows.items()
    ]
    if found.curves:
        lines = [report.curve_cells(curve) for curve in found.curves]
        tables.append(Table(f"{title}, curves", report.CURVE_HEAD, said, rows=lines))
    return tables


def main() -> None:
    tables = [table for title, arguments in tqdm(COMMANDS.items()) for table in compare(title, arguments)]
    about = f", {torch_parts.version('torch')}. How to read it: [docs/parity.md](../../docs/parity.md)"
    page.write("parity", page.page("parity", "Ours beside plain PyTorch", tables, about=about))


if __name__ == "__main__":
    main()
