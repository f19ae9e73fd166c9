"""An index of 100,000 clips: built, saved, mapped, appended to, searched; a line each with its time and memory.

python -m benchmarks.index [--quick]     what benchmarks.search runs in a process of its own
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import page, process, tables
from scav_jax.retrieval import index
from scav_jax.retrieval.clips import Clips

LENGTH, WIDTH, QUERIES, TOP, BLOCK = 16, 64, 200, 10, 10_000


def clips(first: int, count: int) -> tuple[Clips, Clips]:
    """Walks along a few directions, and noisy copies of them; the same ones whatever else is drawn."""
    rng, basis = np.random.default_rng([1, first]), np.random.default_rng(0).normal(size=(8, WIDTH))
    path = np.cumsum(rng.normal(size=(count, LENGTH, 8)), axis=1) @ basis
    return Clips(path.astype(np.float32)), Clips((path + rng.normal(0, 1, path.shape)).astype(np.float32))


def main() -> None:
    count = 1_000 if page.parser(__doc__, quick="1,000 clips").parse_args().quick else 100_000
    block = min(BLOCK, count // 2)
    folder = Path(tempfile.mkdtemp()) / "index"

    def say(what: str, start: float) -> None:
        memory = "\t".join(tables.size(process.memory(field)) for field in ("VmHWM", "RssAnon"))
        print(f"{what}\t{tables.seconds(time.perf_counter() - start)}\t{memory}", flush=True)

    start = time.perf_counter()
    for first in range(0, count - block, block):
        write = index.append if first else index.build
        write(folder, *clips(first, block), [f"clip-{row}" for row in range(first, first + block)])
    say(f"{count - block:,} clips drawn and written, {block:,} at a time", start)
    start = time.perf_counter()
    index.append(folder, *clips(count - block, block), [f"clip-{row}" for row in range(count - block, count)])
    say(f"{block:,} appended", start)
    start = time.perf_counter()
    found = index.load(folder)
    say("mapped, all digests checked", start)
    start = time.perf_counter()
    index.load(folder, verify=False)
    say("mapped without the check", start)
    queries = found.x[:QUERIES]
    for distance, options in (("euclidean", {}), ("wasserstein", {"num_iterations": 30}), ("dtw", {"gamma": 0.1})):
        start = time.perf_counter()
        answer = found.search(queries, TOP, distance=distance, unit_norm=True, **options)
        right = int((answer.indices[:, 0] == np.arange(QUERIES)).sum())
        what = f"{QUERIES} queries by {distance}, exact: median {np.median(answer.computed):.0f} distances each"
        say(f"{what}, {right} found their own clip, {int(answer.certified.sum())} certified", start)
    content = bytearray((folder / "y.frames").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "y.frames").write_bytes(content)
    start = time.perf_counter()
    try:
        index.load(folder)
        print("a flipped byte was not noticed\t-\t-\t-")
    except ValueError as error:
        say(f"a flipped byte: {str(error).removeprefix(str(folder))}", start)
    shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
