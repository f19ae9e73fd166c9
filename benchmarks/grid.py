"""Learning rate and temperature of each method on the demo, chosen on the validation split from grids of one size.

python -m benchmarks.grid     writes benchmarks/results/grid.md; runs that are done are not done again

Score: R@1 on the whole validation split at the last step of seed 0, mean of both directions, CAV by aggregate and SCAV
by sequence retrieval. configs/marimba.py holds the winners.
"""

import itertools
import json
from pathlib import Path

from tqdm import tqdm

from benchmarks import page, process

ROOT = Path("runs/grid")
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
TEMPERATURES = {
    "cosine": (0.02, 0.05, 0.1),
    "euclidean": (0.5, 1.0, 2.0),
    "dtw": (0.5, 1.0, 2.0),
    "wasserstein": (0.5, 1.0, 2.0),
}


def main() -> None:
    points = [
        (name, learning_rate, temperature)
        for name, temperatures in TEMPERATURES.items()
        for learning_rate, temperature in itertools.product(LEARNING_RATES, temperatures)
    ]
    scores = {point: score(*point) for point in tqdm(points, unit="run")}
    page.write("grid", table(scores))


def score(name: str, learning_rate: float, temperature: float) -> float:
    """Validation R@1 in percent of one run, trained now if it was not before."""
    run = ROOT / f"{name}-lr{learning_rate:g}-t{temperature:g}"
    chosen = {"learning_rate": learning_rate, "temperature": temperature}
    flags = (f"--config.recipe.{name}.{key}={value}" for key, value in chosen.items())
    process.train("marimba", run, "cav" if name == "cosine" else name, *flags)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "eval_v2a_R@1" in row)
    return (last["eval_v2a_R@1"] + last["eval_a2v_R@1"]) / 2


def table(scores: dict[tuple[str, float, float], float]) -> str:
    lines = [
        "Validation R@1 in percent (all of split val, mean of v2a and a2v, the method's own retrieval; seed 0).",
        "Command: `python -m benchmarks.grid`. The best of each method is in bold and stands in configs/marimba.py.",
        "",
        "| trained with | temperature | " + " | ".join(f"learning rate {rate:g}" for rate in LEARNING_RATES) + " |",
        "|---" * (2 + len(LEARNING_RATES)) + "|",
    ]
    for name, temperatures in TEMPERATURES.items():
        best = max(value for point, value in scores.items() if point[0] == name)
        for temperature in temperatures:
            row = [scores[name, rate, temperature] for rate in LEARNING_RATES]
            cells = [f"**{value:.1f}**" if value == best else f"{value:.1f}" for value in row]
            lines.append(f"| {name} | {temperature:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
