"""The programs of a run, compiled ahead of time for devices that need not be there; nothing is ever run.

Bytes and operations are those of one device.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from scav_jax import parallel, training
from scav_jax.distances import tiling
from scav_jax.operations import operations

# Memory of a chip, GiB: each generation's page of cloud.google.com/tpu/docs.
TPU_GIB = {"TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
# For sweeps over sizes. TPU: a tenth of the compiler's time, and temporaries up to a quarter too large. CPU: a quarter
# of its time, and the same buffers.
_HASTY = {
    "tpu": {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0},
    "cpu": {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
}
_OWN, _WHOLE = PartitionSpec(parallel.CLIPS), PartitionSpec()


class Target(NamedTuple):
    """Devices to compile for: their backend ("cpu", "gpu", "tpu"), and the bytes of memory of each."""

    devices: list[Any]
    backend: str
    device_bytes: int


class Lengths(NamedTuple):
    """Frames of a modality's longest clip, and whether there are shorter ones."""

    longest: int
    ragged: bool


class Memory(NamedTuple):
    """Bytes of a compiled program."""

    arguments: int
    temporaries: int
    results: int  # beside those that take the place of arguments
    code: int

    @property
    def total(self) -> int:
        return sum(self)


def target(topology: str | None) -> Target:
    """A TPU topology like "v5e:16x16"; with None the devices that are here.

    ValueError: libtpu is missing or does not know it, or nobody knows its memory.
    """
    if topology is None:
        here = jax.devices()
        limit = (here[0].memory_stats() or {}).get("bytes_limit")
        limit = limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(here)
        return Target(here, here[0].platform, limit)
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks a metadata server which machine this is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # or of two plans at a time one fails
    try:
        devices: list[Any] = list(topologies.get_topology_desc(topology, "tpu").devices)
    except Exception as error:  # libtpu raises what it likes
        raise ValueError(
            "topology: expected one that libtpu knows, like v5e:16x16, v5p:4x4x4 or v6e:4x4, got "
            f'{topology!r}: {str(error).splitlines()[0]} (libtpu comes with pip install "scav-jax[tpu]")'
        ) from error
    kind = str(devices[0].device_kind)
    if kind not in TPU_GIB:
        raise ValueError(f"topology: expected a kind of {', '.join(TPU_GIB)}, whose memory is known, got {kind}")
    return Target(devices, "tpu", TPU_GIB[kind] * 2**30)


def lengths(config: Any, ledger: Mapping[str, Any] | None, clip_s: float = 10.0) -> dict[str, Lengths]:
    """Of the clips of a store's ledger; without one, of full clips of so many seconds at the config's rates."""
    if ledger is None:
        return {name: Lengths(round(clip_s * tower.rate_hz), False) for name, tower in config.model.items()}
    entries = {name: ledger["modalities"][name] for name in config.model}
    return {name: Lengths(e["max_length"], e["min_length"] != e["max_length"]) for name, e in entries.items()}


def memory(compiled: jax.stages.Compiled) -> Memory:
    """Of one device."""
    found: Any = compiled.memory_analysis()
    return Memory(
        found.argument_size_in_bytes,
        found.temp_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
        found.generated_code_size_in_bytes,
    )


@dataclass(frozen=True)
class Program:
    """A jitted function and the shapes of its arguments on the devices it is for."""

    function: Any
    arguments: tuple
    backend: str

    def compile(self, *, hasty: bool = False) -> jax.stages.Compiled:
        """hasty: for its memory, roughly, and not for its speed."""
        options = _HASTY.get(self.backend) if hasty else None
        with tiling.compiling_for(self.backend):
            return self.function.lower(*self.arguments).compile(compiler_options=options)

    def memory(self, *, hasty: bool = False) -> Memory:
        return memory(self.compile(hasty=hasty))

    def operations(self) -> int:
        with tiling.compiling_for(self.backend):
            return operations(self.function, *self.arguments)


@dataclass(frozen=True)
class Programs:
    """Those of one config on a mesh of one backend, for features of these lengths."""

    config: Any
    lengths: Mapping[str, Lengths]
    mesh: Mesh
    backend: str

    def step(self, clips: int) -> Program:
        """The whole step for a global batch of so many clips."""
        function = training.make_step(self.config, self.mesh)
        return Program(function, (self.state(), self.batch(clips)), self.backend)

    def towers(self, clips: int) -> Program:
        """Sequences of so many clips at a time, and the gradient that these bring to the parameters."""

        def with_gradient(towers, batch, keys, axis_name=None):
            def sequences(towers):
                encoded = training.encode(self.config, towers, batch, keys)
                return {name: frames for name, (frames, _) in encoded.items()}

            found, vjp = jax.vjp(sequences, parallel.varying(towers, axis_name))
            return found, parallel.total(vjp(found)[0], axis_name)

        keys = parallel.spread_shapes(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), clips)), self.mesh)
        function = self._spread(with_gradient, (_WHOLE, _OWN, _OWN), (_OWN, _WHOLE))
        return self._program(function, self.state().parameters["towers"], self.batch(clips), keys)

    def loss(self, clips: int) -> Program:
        """Distances and loss of a global batch's sequences, and the gradient in these and in the temperature."""
        batch = self.batch(clips)

        def with_gradient(log_temperatures, sequences, masks, axis_name=None):
            def loss(log_temperatures, sequences):
                encoded = {name: (frames, masks[name]) for name, frames in sequences.items()}
                return training.contrast(self.config, log_temperatures, encoded, axis_name)[0]

            return jax.value_and_grad(loss, (0, 1))(log_temperatures, sequences)

        sequences = {
            name: jax.ShapeDtypeStruct((*batch[name].shape[:2], tower.width), tower.compute_dtype)
            for name, tower in self.config.model.items()
        }
        masks = {name: batch[f"{name}_mask"] for name in self.config.model}
        function = self._spread(with_gradient, (_WHOLE, _OWN, _OWN), (_WHOLE, (_WHOLE, _OWN)))
        return self._program(
            function, self.state().parameters["log_temperature"], parallel.spread_shapes(sequences, self.mesh), masks
        )

    def update(self) -> Program:
        """The optimiser's part of the step."""
        state = self.state()
        function = partial(training.update, self.config)
        return self._program(function, state.parameters, state.optimizer_state, state.parameters)

    def operations(self, clips: int) -> dict[str, int]:
        """Of a step, by part."""
        whole, loss, update = (program.operations() for program in (self.step(clips), self.loss(clips), self.update()))
        return {"towers": whole - loss - update, "distances and loss": loss, "update": update}

    def state(self) -> training.TrainState:
        """Shapes of the state, whole on every device."""
        return parallel.replicated_shapes(jax.eval_shape(lambda: training.init(self.config)), self.mesh)

    def batch(self, clips: int) -> training.Batch:
        """Shapes of a global batch, each device holding its own clips."""
        batch: training.Batch = {}
        for name, tower in self.config.model.items():
            longest, ragged = self.lengths[name]
            batch[name] = jax.ShapeDtypeStruct((clips, longest, tower.feature_width), jnp.float32)
            batch[f"{name}_mask"] = jax.ShapeDtypeStruct((clips, longest), bool) if ragged else None
        return parallel.spread_shapes(batch, self.mesh)

    def _program(self, function, *arguments):
        return Program(jax.jit(function), arguments, self.backend)

    def _spread(self, function, in_specs, out_specs):
        if self.mesh.size == 1:
            return function
        inside = partial(function, axis_name=parallel.CLIPS)
        return jax.shard_map(inside, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs)
