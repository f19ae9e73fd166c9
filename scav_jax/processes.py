"""Runs of several processes: how they find each other, and how they stop together."""

import os
import signal
from pathlib import Path

import jax
from absl import flags
from jax.experimental import multihost_utils

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0; with --processes and --process it overrides what is found."
)
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes of the run.", lower_bound=1)
PROCESS = flags.DEFINE_integer("process", None, "Index of this process, from 0.", lower_bound=0)

# EX_TEMPFAIL: stopped by SIGTERM after a checkpoint, start it again.
STOPPED = 75


def start() -> None:
    """Joins the processes of the run and prints what was found. To be called before anything asks for a device.

    Flags override; else SLURM, Open MPI and Cloud TPU tell by their environment; else this is a run of one process.
    ValueError: some of the three flags, but not all.
    """
    told = coordinator, count, index = COORDINATOR.value, PROCESSES.value, PROCESS.value
    if told != (None, None, None):
        if coordinator is None or count is None or index is None or index >= count:
            raise ValueError(
                "expected --coordinator=HOST:PORT, --processes=COUNT and --process=INDEX below it together, got "
                f"{coordinator}, {count} and {index}"
            )
        jax.distributed.initialize(coordinator, count, index)
        found = f"--coordinator={coordinator}"
    elif found := _surroundings():
        jax.distributed.initialize()
    if found:
        devices = f"{jax.local_device_count()} of {jax.device_count()} devices ({jax.devices()[0].device_kind})"
        print(f"{found}: process {jax.process_index()} of {jax.process_count()}, {devices}", flush=True)


def _surroundings() -> str:
    for name, variable in (("SLURM", "SLURM_NTASKS"), ("Open MPI", "OMPI_COMM_WORLD_SIZE")):
        if int(os.environ.get(variable, 1)) > 1:
            return name
    # The devices of a TPU VM, by either of its drivers. A single host says so itself.
    on_tpu = Path("/dev/accel0").exists() or (Path("/dev/vfio").is_dir() and "TPU_ACCELERATOR_TYPE" in os.environ)
    return "Cloud TPU" if on_tpu and os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu") else ""


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


class StopRequest:
    """Whether SIGTERM asks the run to save and stop: of several processes, all learn it for the same step."""

    def __init__(self) -> None:
        self._received = False
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._receive)

    def at(self, step: int) -> bool:
        """To be asked by every process after every step."""
        if jax.process_count() == 1:
            return self._received
        return multihost_utils.reached_preemption_sync_point(step)

    def _receive(self, *_):
        self._received = True
