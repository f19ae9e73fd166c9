"""The whole method at once: renders marimba clips, trains CAV and SCAV on them, evaluates, reports.

python demo.py [--seeds=3 --steps=500]     (make demo [SEEDS=3] installs what it needs first)
python demo.py --extractor=clip+beats [--clip-weights=FILE --beats-weights=FILE]

Stops and goes on at will: what is done is not done again. The commands it runs are printed; each works on its own.
"""

import argparse
import contextlib
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from configs import marimba as demo_config
from data.marimba.prepare import LIGHT, NETWORKS
from data.marimba.prepare import ROOT as DATA
from data.marimba.score import NOTES
from scav_jax import significance
from scav_jax.melody import Melody
from scav_jax.report import write_report
from scav_jax.results import markdown_tables, pool_seeds, summary_rows, terminal_table

METHODS = ("cav", "euclidean", "dtw", "wasserstein")
PROBES = ("--probe=permute:1,reverse:1,shift:0.25,warp:0.5,crop:0.5,freeze:0.5", "--probe_subsets=order,semantic")
# Seconds on two cores of a 2026 server: the first guess of the time left, corrected by how the stages really go.
SECONDS = {
    "data": 150,
    "networks": 240,
    "cav": 50,
    "euclidean": 50,
    "dtw": 80,
    "wasserstein": 80,
    "eval": 100,
    "report": 20,
}


class Stages:
    """Announces each stage, how long it and all that follow will take, and in the end how long each took."""

    def __init__(self, planned: list[tuple[str, float]]):
        self._planned = planned
        self._took: list[float] = []

    def __str__(self) -> str:
        lines = [f"  {seconds:6.0f} s  {what}" for (what, _), seconds in zip(self._planned, self._took, strict=False)]
        return "\n".join([*lines, f"  {sum(self._took):6.0f} s  in all"])

    def run(self, command: list[str]) -> None:
        with self.next(command):
            finished = subprocess.run([sys.executable, *command[1:]], check=False)
            if finished.returncode:
                raise SystemExit(finished.returncode)

    @contextlib.contextmanager
    def next(self, command: list[str] | None = None) -> Iterator[None]:
        done = len(self._took)
        (what, seconds), rest = self._planned[done], sum(s for _, s in self._planned[done:])
        pace = sum(self._took) / sum(s for _, s in self._planned[:done]) if done else 1.0
        left = f"about {seconds * pace:.0f} s, all the rest about {rest * pace / 60:.1f} min"
        print(f"\n[{done + 1}/{len(self._planned)}] {what}: {left}", flush=True)
        if command:
            print(f"$ {shlex.join(command)}", flush=True)
        start = time.monotonic()
        yield
        self._took.append(time.monotonic() - start)


def main() -> None:
    options = _options()
    light = options.extractor == LIGHT
    root = Path("runs/demo" if light else f"runs/demo-{NETWORKS}")
    data = Path(DATA) if light else Path(DATA) / NETWORKS
    store = data / "store"
    seeds = range(options.seeds)
    runs = {(method, seed): root / f"{method}-seed{seed}" for seed in seeds for method in METHODS}
    todo = {key: run for key, run in runs.items() if not _is_evaluated(run, store, options.steps)}

    planned: list[tuple[str, float]] = []
    if not store.exists():
        planned.append(("render, extract, pack", SECONDS["data" if light else "networks"]))
    for method, seed in todo:
        planned.append((f"train {method}, seed {seed}", SECONDS[method]))
        planned.append((f"evaluate {method}, seed {seed}", SECONDS["eval"]))
    planned.append(("write the report", SECONDS["report"]))
    minutes = sum(seconds for _, seconds in planned) / 60
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "orbax-checkpoint", "av"))
    print(f"Python {platform.python_version()} ({sys.executable})\n{packages}")
    print(f"about {minutes:.0f} minutes on two cores, 0.4 GB in {data} and {root}", flush=True)

    stages = Stages(planned)
    if not store.exists():
        stages.run(["python", "-m", "data.marimba", *([] if light else _network_flags(options, data))])
    for (method, seed), run in todo.items():
        overrides = _overrides(method, seed, options.steps) + ([] if light else [f"--config.data.store={store}"])
        stages.run(["python", "train.py", "--config=configs/marimba.py", f"--workdir={run}", *overrides])
        stages.run(["python", "eval.py", f"--workdir={run}", "--frontier", *PROBES, "--noreport"])

    with stages.next():
        folders = list(runs.values())
        hits = significance.load_hits(folders)
        intervals = significance.intervals(hits)
        write_report(
            folders,
            root / "report.html",
            title="Marimba: what contrasting sequences finds",
            pooled=intervals,
            summary=root / "summary.json",
            melodies=_melodies(data / "world" / "strokes.json"),
            poster_out=root / "poster.png",
        )
        rows = pool_seeds(summary_rows(folders), intervals)
        (root / "results.md").write_text(markdown_tables(rows, significance.differences(hits)))
    print(f"\n{stages}\n\n{terminal_table(rows)}")
    print((root / "report.html").resolve())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each method, from seed 0 (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=demo_config.get_config().steps, help="of a run (default: %(default)s)"
    )
    parser.add_argument(
        "--extractor",
        default=LIGHT,
        choices=(LIGHT, NETWORKS),
        help="of the features (default: %(default)s); the networks see a twentieth of the clips",
    )
    parser.add_argument("--clip-weights", help="file of CLIP ViT-B/32 (default: random weights)")
    parser.add_argument("--beats-weights", help="BEATs checkpoint (default: random weights)")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error("--seeds: expected at least 1")
    if options.extractor == LIGHT and (options.clip_weights or options.beats_weights):
        parser.error(f"--clip-weights, --beats-weights: expected with --extractor={NETWORKS}")
    return options


def _melodies(strokes: Path) -> dict[str, Melody]:
    """Of every clip of the world, while it is there."""
    found = json.loads(strokes.read_text()) if strokes.exists() else {}
    return {
        clip: Melody([NOTES[bar] for bar in played["bars"]], played["picture_s"], played["sound_s"])
        for clip, played in found.items()
    }


def _overrides(method: str, seed: int, steps: int) -> list[str]:
    chosen = "--config.method=cav" if method == "cav" else f"--config.distance.name={method}"
    return [chosen, f"--config.seed={seed}", f"--config.steps={steps}"]


def _network_flags(options: argparse.Namespace, data: Path) -> list[str]:
    files = {"--clip-weights": options.clip_weights, "--beats-weights": options.beats_weights}
    given = [f"{flag}={path}" for flag, path in files.items() if path]
    return [f"--out={data}", "--scale=0.05", f"--extractor={NETWORKS}", *given]


def _is_evaluated(run: Path, store: Path, steps: int) -> bool:
    """Whether RUN/eval holds what this demo asks for, and not another split, store or number of steps."""
    metrics, ledger = run / "eval" / "metrics.json", store / "ledger.json"
    if not (metrics.exists() and ledger.exists()):
        return False
    found = json.loads(metrics.read_text())
    protocol, split = found["protocol"], demo_config.get_config().data.test_split
    asked = (steps, split, json.loads(ledger.read_text())["ids_sha256"][split])
    evaluated = (protocol["step"], protocol["split"], protocol["ids_sha256"]) == asked
    return evaluated and {"frontier", "probes"} <= found.keys()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the same command goes on from here") from None
