"""Where the time of a training step goes, and how fast it is: what the log shows beside the loss."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from scav_jax.plan import Program, Programs


class StepClock:
    """Times training from row to row of the log.

    The device's part of a step is split by what distances and update took by themselves before training began, each
    compiled and run once on zeros; the towers have the rest. Without `split` neither is compiled.
    """

    def __init__(self, programs: Programs, *, split: bool):
        clips = programs.config.batch_size
        self._negatives = clips - 1
        self._pairs = clips**2
        self._operations = sum(programs.operations(clips).values()) * programs.mesh.size
        self._parts = {}
        if split:
            self._parts = {"distances": _seconds(programs.loss(clips)), "update": _seconds(programs.update())}
        self._restart()

    @contextmanager
    def input(self) -> Iterator[None]:
        """Around what brings a batch on its way to the device."""
        start = time.perf_counter()
        yield
        self._input_s += time.perf_counter() - start
        self._steps += 1

    @contextmanager
    def aside(self, state: Any) -> Iterator[None]:
        """Around what is no part of a step, evaluating and saving; begins when this state is there."""
        jax.block_until_ready(state)
        start = time.perf_counter()
        yield
        self._began += time.perf_counter() - start

    def row(self) -> dict[str, float]:
        """Of the steps since the last row, whose results are to be there already; seconds are those of one step."""
        step_s = (time.perf_counter() - self._began) / self._steps
        input_s = self._input_s / self._steps
        row = {
            "steps_per_s": 1 / step_s,
            "negatives": self._negatives,
            "pairs_per_s": self._pairs / step_s,
            "flop_per_s": self._operations / step_s,
            "input_s": input_s,
            **{f"{part}_s": seconds for part, seconds in self._parts.items()},
        }
        if self._parts:
            row["towers_s"] = max(0.0, step_s - input_s - sum(self._parts.values()))
        self._restart()
        return row

    def _restart(self):
        self._began, self._input_s, self._steps = time.perf_counter(), 0.0, 0


def _seconds(program: Program) -> float:
    """Of the second run."""
    compiled = program.compile()
    for _ in range(2):
        arguments = jax.tree.map(_zeros, program.arguments)
        jax.block_until_ready(arguments)
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds = time.perf_counter() - start
    return seconds


def _zeros(shape: Any) -> jax.Array:
    # Ones are a mask of full clips.
    fill = jnp.ones if shape.dtype == bool else jnp.zeros
    return jax.jit(lambda: fill(shape.shape, shape.dtype), out_shardings=shape.sharding)()
