"""The hard world: every method trained on configs/marimba_hard.py, and R@1 of each subset.

python -m benchmarks.hard     writes benchmarks/results/hard.md; runs that are done are not done again; about an hour
"""

import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks import measure
from scav_jax import significance
from scav_jax.results import markdown_tables, pool_seeds, summary_rows

METHODS = ("cav", "euclidean", "dtw", "wasserstein")
ROOT, RESULTS = Path("runs/hard"), Path("benchmarks/results/hard.md")
SEEDS = range(3)


def main() -> None:
    runs = [ROOT / f"{method}-seed{seed}" for seed in SEEDS for method in METHODS]
    for run in tqdm(runs, unit="run"):
        if not (run / "eval" / "metrics.json").exists():
            method, _, seed = run.name.partition("-seed")
            chosen = "--config.method=cav" if method == "cav" else f"--config.distance.name={method}"
            python("train.py", "--config=configs/marimba_hard.py", f"--workdir={run}", chosen, f"--config.seed={seed}")
            python("eval.py", f"--workdir={run}", "--noreport")
    hits = significance.load_hits(runs)
    rows = pool_seeds(summary_rows(runs), significance.intervals(hits))
    head = f"# The hard world\n\nCommand: `python -m benchmarks.hard`. {measure.hardware()}\n\n"
    RESULTS.write_text(head + markdown_tables(rows, significance.differences(hits)))
    print(RESULTS.read_text())


def python(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True)


if __name__ == "__main__":
    main()
