"""One forward and gradient at a large batch, alone in its process: its time and the process's peak memory, as JSON.

python -m benchmarks.large dtw --clips=2048
"""

import json

import jax

from benchmarks import measure, page, process
from benchmarks.settings import OPTIONS, ours


def main() -> None:
    parser = page.parser(__doc__)
    parser.add_argument("distance", choices=OPTIONS)
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--shape", type=int, nargs=3, default=(16, 32, 32), metavar=("n", "m", "d"))
    arguments = parser.parse_args()
    data = measure.clips(arguments.clips, *arguments.shape)
    contender = measure.jax_contender("", ours(arguments.distance), data)
    took = measure.timed(contender.run)
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    found = {"seconds": took, "temporaries": contender.temporaries, "peak": process.peak_bytes()}
    print(json.dumps({**found, "device_peak": device}))


if __name__ == "__main__":
    main()
