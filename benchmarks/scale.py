"""One optimiser step of thousands of clips on this machine: its time, its memory, and what the plan said before.

python -m benchmarks.scale                      both distances, each in a process of its own; writes results/scale.md
python -m benchmarks.scale --distance=dtw       one, here; prints JSON
"""

import gc
import json
import sys

import jax
import numpy as np

from benchmarks import measure, page, process
from benchmarks.tables import Table, seconds, size, within
from configs import base
from scav_jax import parallel, plan, training

DISTANCES = ("euclidean", "dtw")
LENGTHS = {"visual": plan.Lengths(16, False), "audio": plan.Lengths(32, False)}
AT_MOST_BYTES, AT_MOST_S, APART = 8 * 2**30, 20 * 60, 0.15


def config(distance: str, clips: int):
    """Tiny towers, so that the distances are what the step is about."""
    found = base.get_config()
    found.batch_size, found.micro_batch_size = clips, min(1024, clips)
    found.distance.name = distance
    for tower in found.model.values():
        tower.update(feature_width=32, width=32, mlp_width=32, num_heads=2, num_layers=1, ffn_width=32)
    return found


def one_step(distance: str, clips: int) -> dict:
    """Of this process's only step: planned and measured bytes that it adds, the process's peak, seconds."""
    mesh = parallel.make_mesh()
    programs = plan.Programs(config(distance, clips), LENGTHS, mesh, plan.target(None).backend)
    program = programs.step(clips)
    planned = program.memory()
    step = program.compile()
    state = parallel.replicate(jax.jit(lambda: training.init(programs.config))(), mesh)
    rng = np.random.default_rng(0)
    batch = {
        name: None if shape is None else rng.standard_normal(shape.shape, np.float32)
        for name, shape in programs.batch(clips).items()
    }
    batch = jax.block_until_ready(parallel.spread(batch, mesh))
    compiling = process.peak_bytes()
    gc.collect()
    before = process.forget_peak()
    took = measure.timed(lambda: jax.block_until_ready(step(state, batch)))
    return {
        "seconds": took,
        "planned": planned.temporaries + planned.results,
        "added": process.peak_bytes() - before,
        "peak": max(compiling, process.peak_bytes()),
    }


def main() -> None:
    parser = page.parser(__doc__)
    parser.add_argument("--distance", choices=DISTANCES)
    parser.add_argument("--clips", type=int, default=8192)
    arguments = parser.parse_args()
    if arguments.distance:
        print(json.dumps(one_step(arguments.distance, arguments.clips)))
        return
    table = Table(
        f"One exact step of SCAV with {arguments.clips:,} clips, {arguments.clips - 1:,} negatives per positive",
        (
            *("distance", "time", "at most", "met", "memory of the step", "planned", "apart", "at most", "met"),
            *("peak of the process", "at most", "met"),
        ),
        "Tiny towers (width 32, one block), sequences of 16 x 32, micro-batches of 1,024 clips. Planned: temporaries "
        "and results of the compiled step, known before it runs. Memory of the step: resident bytes it adds at most.",
    )
    for distance in DISTANCES:
        printed = process.run("scale", f"--distance={distance}", f"--clips={arguments.clips}")
        found = json.loads(printed.splitlines()[-1])
        apart = abs(found["added"] / found["planned"] - 1)
        table.rows.append(
            (
                *(distance, seconds(found["seconds"]), f"{AT_MOST_S // 60} min", within(found["seconds"], AT_MOST_S)),
                *(size(found["added"]), size(found["planned"]), f"{apart:.1%}", f"{APART:.0%}", within(apart, APART)),
                *(size(found["peak"]), size(AT_MOST_BYTES), within(found["peak"], AT_MOST_BYTES)),
            )
        )
        print(table.rows[-1], file=sys.stderr)
    page.write("scale", page.page("scale", "Scale", [table]))


if __name__ == "__main__":
    main()
