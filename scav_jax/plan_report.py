"""What a run will need, as text: parameters, memory and operations by part, and the largest batch that fits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict
from tqdm import tqdm

from scav_jax import distances
from scav_jax.config import describe
from scav_jax.plan import Memory, Program, Programs, Target

# Of a device's memory, what a step may take; the runtime and fragments have the rest.
USABLE = 0.92
SWEPT = tuple(name for name in distances.DISTANCES if name != "cosine")
TILES = (0, 32)  # 0: chosen from the shapes
_ROWS = (8, 32, 128)  # clips a device through which memory is drawn as a parabola
_MIB = 2**20

Cells = Sequence[str]
Measure = Callable[..., Memory]  # a program's memory, with a turn of the progress bar


def report(programs: Programs, target: Target, resident: int = 0, *, sweep: bool = True) -> str:
    """The plan of config.batch_size and, with `sweep`, the largest batch for every distance and tile size.

    resident: bytes of features that stay on each device."""
    config, devices = programs.config, programs.mesh.size
    with tqdm(total=3 + sweep * (2 + len(_ROWS) * len(SWEPT) * len(TILES)), desc="compiling", leave=False) as bar:

        def measure(program: Program, *, hasty: bool = False) -> Memory:
            memory = program.memory(hasty=hasty)
            bar.update()
            return memory

        memory = _memory(programs, target, resident, measure)
        largest = _largest(programs, target, resident, measure) if sweep else []
    kind, gib = target.devices[0].device_kind, target.device_bytes / 2**30
    lines = [
        describe(config),
        f"{devices} x {kind}, {gib:.3g} GiB each; {config.batch_size // devices} clips a device",
        *(
            f"{name}: {longest} x {config.model[name].feature_width}{', ragged' * ragged}"
            for name, (longest, ragged) in programs.lengths.items()
        ),
    ]
    parts = programs.state().parameters["towers"].items()
    operations = programs.operations(config.batch_size).items()
    lines += _table("parameters", [(name, f"{sum(leaf.size for leaf in jax.tree.leaves(t)):,}") for name, t in parts])
    lines += _table("memory of a device, MiB", memory)
    lines += _table("operations of a device and step, GFLOP", [(part, f"{o / 1e9:,.2f}") for part, o in operations])
    if largest:
        lines += _table("largest batch that fits", largest)
    return "\n".join(lines)


def _memory(programs: Programs, target: Target, resident: int, measure: Measure) -> list[Cells]:
    clips, state = programs.config.batch_size, programs.state()
    step = measure(programs.step(clips))
    towers = measure(programs.towers(programs.config.micro_batch_size or clips), hasty=True)
    loss = measure(programs.loss(clips), hasty=True)
    parameters, optimizer = _bytes(state.parameters), _bytes(state.optimizer_state)
    total = resident + step.total
    fits = "fits" if total <= USABLE * target.device_bytes else "does NOT fit"
    return [
        ("parameters", _mib(parameters)),
        ("optimiser state", _mib(optimizer)),
        ("features that stay", _mib(resident)),
        ("batch", _mib(step.arguments - parameters - optimizer)),
        ("temporaries", _mib(step.temporaries)),
        ("  by themselves, towers about", _mib(towers.temporaries)),
        ("  by themselves, distances and loss about", _mib(loss.temporaries)),
        ("results and code", _mib(step.results + step.code)),
        ("in all", _mib(total), f"{fits} into {USABLE:.0%} of {_mib(target.device_bytes)}"),
    ]


def _largest(programs: Programs, target: Target, resident: int, measure: Measure) -> list[Cells]:
    """A row a distance: what stays from step to step, and what towers and distances take by themselves, added up."""
    config, devices = programs.config, programs.mesh.size
    kept, clip = resident + _bytes(programs.state()), _bytes(programs.batch(devices)) / devices
    parameters = _bytes(programs.state().parameters["towers"])
    micro = config.micro_batch_size
    sizes = (micro,) * 2 if micro else [rows * devices for rows in _ROWS[:2]]
    few, many = (measure(programs.towers(size), hasty=True) for size in sizes)
    of_towers = np.polyfit(_ROWS[:2], [memory.total - parameters for memory in (few, many)], 1)
    table: list[Cells] = [("", *(f"tile {tile or 'auto'}" for tile in TILES))]
    for name in SWEPT:
        row = [name]
        for tile in TILES:
            changed = replace(programs, config=_with(config, name, tile))
            of_loss = np.polyfit(_ROWS, [measure(changed.loss(r * devices), hasty=True).total for r in _ROWS], 2)

            def total(rows, of_loss=of_loss):
                return kept + bool(micro) * clip * rows + np.polyval(of_towers, rows) + np.polyval(of_loss, rows)

            row.append(f"{_most(total, USABLE * target.device_bytes) * devices:,}")
        table.append(row)
    return table


def _with(config: Any, distance: str, tile_size: int) -> FrozenConfigDict:
    changed = config.copy_and_resolve_references()
    changed.method = "scav"
    changed.distance.name, changed.distance.tile_size = distance, tile_size
    return FrozenConfigDict(changed)


def _most(total: Callable[[int], float], limit: float | int) -> int:
    """The largest number of rows whose total is within the limit."""
    rows = 1
    while total(2 * rows) <= limit:
        rows *= 2
    step = rows
    while step := step // 2:
        if total(rows + step) <= limit:
            rows += step
    return rows if total(rows) <= limit else 0


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _mib(size: float | int) -> str:
    return f"{size / _MIB:,.1f}"


def _table(title: str, rows: Sequence[Cells]) -> list[str]:
    width = max(len(row[0]) for row in rows)
    lines = ("  ".join([row[0].ljust(width), *(cell.rjust(10) for cell in row[1:])]) for row in rows)
    return ["", title, *("  " + line for line in lines)]
