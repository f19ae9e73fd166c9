"""One forward and gradient at a large batch, alone in its process: its time and the process's peak memory, as JSON.

python -m benchmarks.large dtw --clips=2048
"""

import argparse
import json
import resource
import sys
from pathlib import Path

import jax

from benchmarks import measure
from benchmarks.settings import OPTIONS, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("distance", choices=OPTIONS)
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--shape", type=int, nargs=3, default=(16, 32, 32), metavar=("n", "m", "d"))
    arguments = parser.parse_args()
    data = measure.clips(arguments.clips, *arguments.shape)
    contender = measure.jax_contender("", ours(arguments.distance), data)
    took = measure.timed(contender.run)
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    print(
        json.dumps({"seconds": took, "temporaries": contender.temporaries, "peak": peak_bytes(), "device_peak": device})
    )


def peak_bytes() -> int:
    """Most resident memory of this process so far. Linux hands getrusage's figure down from the parent: /proc first."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
