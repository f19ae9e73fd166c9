"""What runs in a process of its own: how a measurement or a training is started, and what memory it takes."""

import resource
import subprocess
import sys
from pathlib import Path

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run(module: str, *flags: str) -> str:
    """What `python -m benchmarks.MODULE FLAGS` prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *flags]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(config: str, run: Path, method: str, *flags: str) -> None:
    """Begins a run of configs/CONFIG.py by train.py, or goes on with it; method: "cav", or the distance of SCAV."""
    chosen = "--config.method=cav" if method == "cav" else f"--config.distance.name={method}"
    command = [sys.executable, "train.py", f"--config=configs/{config}.py", f"--workdir={run}", chosen, *flags]
    subprocess.run(command, check=True)


def memory(field: str) -> int:
    """Bytes of this process, as Linux counts them: VmHWM, the peak of all, RssAnon, what of now is in no file."""
    lines = (line.partition(":") for line in _STATUS.read_text().splitlines())
    return next(1024 * int(value.split()[0]) for name, _, value in lines if name == field)


def peak_bytes() -> int:
    """Most resident memory of this process so far. Linux hands getrusage's figure down from the parent: /proc first."""
    if _STATUS.exists():
        return memory("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> int:
    """Linux counts this process's peak from here; its resident bytes now."""
    _FORGET.write_text("5")
    return peak_bytes()
