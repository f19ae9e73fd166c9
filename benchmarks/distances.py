"""Speed, memory and precision of the distances, beside what a user would take instead.

python -m benchmarks.distances                    all of it, in about ten minutes on two cores
python -m benchmarks.distances --only=dtw,memory  some sections
python -m benchmarks.distances --quick            tiny shapes through all of the code, in half a minute

Every line is a ratio of one run: same inputs, values and gradients compared first, then both in turns, the peer at its
fastest setting; ratio: the median over pairs of the peer's time over ours. Temporaries: bytes of the compiled program
beside inputs and results. Peers that are not installed are named as such. A full run writes distances.md and
distances.png to benchmarks/results; one with --quick or --only writes where --out says, or only prints.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from tqdm import tqdm

from benchmarks import alone, measure, page, versus
from benchmarks.plot import Point, draw
from benchmarks.settings import QUICK, Sizes
from benchmarks.tables import Job, Table

SECTIONS: dict[str, Callable[..., Iterator[Job]]] = {
    "dtw": versus.dtw,
    "wasserstein": versus.wasserstein,
    "euclidean": versus.euclidean,
    "memory": alone.memory,
    "large": alone.large,
    "precision": alone.precision,
    "scaling": alone.scaling,
    "accelerator": alone.accelerator,
}


def main() -> None:
    arguments = parse()
    if arguments.quick:  # what takes long at these shapes is compilation
        os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
        jax.config.update("jax_disable_most_optimizations", True)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the large runs have processes of their own
    sizes = QUICK if arguments.quick else Sizes(seconds=arguments.seconds)
    points: list[Point] = []
    jobs: list[Job] = []
    for name in arguments.only or default_sections(arguments):
        jobs += SECTIONS[name](sizes, points) if name == "scaling" else SECTIONS[name](sizes)
    run(jobs)
    tables = list({id(job.table): job.table for job in jobs}.values())
    text = report(tables, arguments)
    print(text)
    out = arguments.out or (None if arguments.quick or arguments.only or arguments.skip_large else page.RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "distances.md").write_text(text)
        if points:
            draw(points, out / "distances.png")


def parse() -> argparse.Namespace:
    parser = page.parser(__doc__, quick="tiny shapes, no targets")
    parser.add_argument("--only", type=sections, help=f"sections, by commas, of {', '.join(SECTIONS)}")
    parser.add_argument("--skip-large", action="store_true", help="leave the runs of 2048 clips out")
    parser.add_argument("--seconds", type=float, default=4, help="of pairs a comparison (three pairs at least)")
    parser.add_argument("--out", type=Path, help="folder of distances.md and distances.png")
    arguments = parser.parse_args()
    if "accelerator" in (arguments.only or ()) and on_cpu(arguments):
        parser.error("accelerator: expected a backend other than the CPU")
    return arguments


def sections(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(SECTIONS)}, got {name!r}")
    return names


def default_sections(arguments: argparse.Namespace) -> list[str]:
    """All that makes sense here."""
    leave_out = {"large"} if arguments.skip_large else set()
    if on_cpu(arguments):
        leave_out.add("accelerator")
    return [name for name in SECTIONS if name not in leave_out]


def on_cpu(arguments: argparse.Namespace) -> bool:
    """Where the shapes and limits of an accelerator are of no use; --quick runs the code of that section, no more."""
    return jax.default_backend() == "cpu" and not arguments.quick


def run(jobs: list[Job]) -> None:
    with tqdm(jobs, unit="row", disable=None) as bar:
        for job in bar:
            bar.set_description(job.label)
            job.table.rows += job.rows()


def report(tables: list[Table], arguments: argparse.Namespace) -> str:
    verdicts = [verdict for table in tables for verdict in table.verdicts()]
    lines = [
        "# Distances: speed, memory and precision beside other packages",
        "",
        f"Command: `{command(arguments)}`. {measure.hardware()}; float32 unless it says otherwise.",
        "",
        __doc__.split("\n\n")[-1].strip().replace("\n", " "),
        *(["", f"Targets met: {sum(verdicts)} of {len(verdicts)}."] if verdicts else []),
    ]
    return "\n".join(lines) + "\n\n" + "\n".join(table.markdown() for table in tables)


def command(arguments: argparse.Namespace) -> str:
    flags = [f"--only={','.join(arguments.only)}"] if arguments.only else []
    flags += [flag for flag, given in (("--quick", arguments.quick), ("--skip-large", arguments.skip_large)) if given]
    return " ".join(["python -m benchmarks.distances", *flags])


if __name__ == "__main__":
    main()
