"""The paper's step on three kinds of pod: compiled here, for chips that are not here.

python -m benchmarks.pods    writes benchmarks/results/pods.md; ten minutes on two cores, and libtpu (docs/scaling.md)
"""

import re

from tqdm import tqdm

from benchmarks import page
from benchmarks.settings import OPTIONS
from benchmarks.tables import Table
from configs import base
from scav_jax import parallel, plan

TOPOLOGIES = ("v5e:16x16", "v5p:4x4x4", "v6e:4x4")
CLIPS_A_DEVICE = 16
LENGTHS = {"visual": plan.Lengths(40, False), "audio": plan.Lengths(62, False)}  # 10 s of CLIP at 4 Hz and of BEATs


def row(topology: str, distance: str) -> tuple[str, ...]:
    target = plan.target(topology)
    config = base.get_config()
    config.distance.name, config.batch_size = distance, CLIPS_A_DEVICE * len(target.devices)
    programs = plan.Programs(config, LENGTHS, parallel.make_mesh(target.devices), target.backend)
    program = programs.step(config.batch_size)
    compiled = program.compile(hasty=True)
    text, memory = compiled.as_text() or "", plan.memory(compiled)
    operations = programs.operations(config.batch_size)
    mib = (f"{size / 2**20:,.0f}" for size in (memory.arguments, memory.temporaries, memory.total, target.device_bytes))
    gflop = (f"{operations[part] / 1e9:,.1f}" for part in ("towers", "distances and loss"))
    collectives = (str(len(re.findall(rf" {name}(-start)?\(", text))) for name in ("collective-permute", "all-gather"))
    return (topology, target.devices[0].device_kind, distance, f"{config.batch_size:,}", *mib, *gflop, *collectives)


def main() -> None:
    table = Table(
        "The step of configs/base.py",
        (
            *("topology", "chip", "distance", "clips", "arguments, MiB", "temporaries, MiB", "in all, MiB", "of"),
            *("towers, GFLOP", "distances, GFLOP", "ring permutes", "all-gathers"),
        ),
        f"{CLIPS_A_DEVICE} clips a chip, features of 40 x 512 and 62 x 768; memory and operations are those of one "
        "chip. Compiled in haste, which takes up to a quarter more temporaries than a run's own compilation.",
    )
    jobs = [(topology, distance) for topology in TOPOLOGIES for distance in OPTIONS]
    for job in tqdm(jobs):
        table.rows.append(row(*job))
    page.write("pods", page.page("pods", "Pods", [table]))


if __name__ == "__main__":
    main()
