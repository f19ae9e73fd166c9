"""Runs of several processes: how they find each other, and how they stop together."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
from absl import flags
from jax.experimental import multihost_utils

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0; with --processes and --process it overrides what is found."
)
PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes of the run.", lower_bound=1)
PROCESS = flags.DEFINE_integer("process", None, "Index of this process, from 0.", lower_bound=0)

STUCK_AFTER_S = flags.DEFINE_float(
    "stuck_after_s",
    1800.0,
    "Of several processes: the run ends where no step, evaluation or save ends for so long.",
)

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
    devices = f"{jax.local_device_count()} of {jax.device_count()} devices ({jax.devices()[0].device_kind})"
    place = f"process {jax.process_index()} of {jax.process_count()}, {devices}"
    print(f"{found or 'single machine'}: {place}", flush=True)


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


class Watchdog:
    """Ends this process where `alive` has not been called for --stuck_after_s seconds.

    JAX notices a peer that is gone. For one that hangs all others would wait without end, inside a collective, where no
    exception reaches: so this leaves by os._exit, with exit code 1. Alone, a process is not watched.
    """

    def __init__(self) -> None:
        self._limit_s, self._closed = STUCK_AFTER_S.value, threading.Event()
        self.alive()
        if jax.process_count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        self._seen = time.monotonic()

    def close(self) -> None:
        self._closed.set()

    def _watch(self):
        while not self._closed.wait(min(1.0, self._limit_s / 10)):
            if time.monotonic() - self._seen > self._limit_s:
                print(
                    f"error: process {jax.process_index()} of {jax.process_count()}: nothing ended for "
                    f"{self._limit_s:g} s; another process hangs, or --stuck_after_s is too short",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
