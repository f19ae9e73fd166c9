"""The hard world: every method trained on configs/marimba_hard.py, and R@1 of each subset.

python -m benchmarks.hard     writes benchmarks/results/hard.md; runs that are done are not done again
"""

import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks import page, process
from benchmarks.settings import METHODS
from scav_jax import significance
from scav_jax.results import markdown_tables, pool_seeds, summary_rows

ROOT = Path("runs/hard")
SEEDS = range(3)


def main() -> None:
    runs = {ROOT / f"{method}-seed{seed}": (method, seed) for seed in SEEDS for method in METHODS}
    for run, (method, seed) in tqdm(runs.items(), unit="run"):
        if not (run / "eval" / "metrics.json").exists():
            process.train("marimba_hard", run, method, f"--config.seed={seed}")
            subprocess.run([sys.executable, "eval.py", f"--workdir={run}", "--noreport"], check=True)
    hits = significance.load_hits(list(runs))
    rows = pool_seeds(summary_rows(list(runs)), significance.intervals(hits))
    tables = markdown_tables(rows, significance.differences(hits))
    page.write("hard", page.page("hard", "The hard world", [tables]))


if __name__ == "__main__":
    main()
