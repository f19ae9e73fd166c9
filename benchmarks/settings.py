"""What is measured: options of the distances, and the sizes of a full and of a quick run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from scav_jax.distances import pairwise

METHODS = ("cav", "euclidean", "dtw", "wasserstein")  # trained by make demo and on the hard world
GAMMA = 0.1
EPSILON = 0.05
ITERATIONS = 50
OPTIONS: dict[str, dict] = {
    "euclidean": dict(resample="x_to_y"),
    "dtw": dict(gamma=GAMMA, normalize=False),
    "wasserstein": dict(epsilon=EPSILON, num_iterations=ITERATIONS),
}


def ours(name: str, **more) -> Callable:
    """The distance with these options, as (x, y) -> matrix."""
    return partial(pairwise, name, **OPTIONS[name], **more)


@dataclass(frozen=True)
class Sizes:
    """Clips a side, lengths and widths of each section."""

    seconds: float  # of pairs a comparison, at most; three pairs at least
    targets: bool = True
    one_setting: bool = False  # of each peer
    dtw: tuple[int, int, int] = (64, 32, 128)  # B, n, m
    wasserstein: tuple[int, int, int] = (64, 32, 64)
    widths: tuple[int, ...] = (64, 512)
    broadcast: tuple[int, int, int, int] = (256, 32, 64, 512)  # B, n, m, d
    product: tuple[int, int, tuple[int, ...], int] = (1024, 32, (64, 128), 512)
    positions: tuple[int, ...] = (16, 32, 64)
    memory_clips: tuple[int, ...] = (256, 512, 1024)
    memory_shape: tuple[int, int, int] = (16, 32, 32)  # n, m, d
    memory_tile: int = 8
    large_clips: int = 2048
    large: tuple[str, ...] = ("euclidean", "dtw", "wasserstein")
    precision: tuple[int, int, int, int] = (16, 32, 128, 64)
    gammas: tuple[float, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0)
    scaling_clips: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    scaling_lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    scaling_shape: tuple[int, int, int] = (32, 64, 64)  # n, m, d
    scaling_fixed_clips: int = 16
    accelerator: tuple[tuple[int, int, int, int], ...] = (
        (1024, 32, 64, 512),
        (1024, 32, 128, 512),
        (4096, 32, 64, 512),
        (4096, 32, 128, 512),
    )


QUICK = Sizes(
    seconds=0.0,
    targets=False,
    one_setting=True,
    dtw=(4, 5, 9),
    wasserstein=(4, 5, 9),
    widths=(8,),
    broadcast=(4, 5, 9, 8),
    product=(8, 5, (9,), 8),
    positions=(3,),
    memory_clips=(4, 8),
    memory_shape=(3, 5, 8),
    memory_tile=2,
    large_clips=16,
    large=("euclidean",),
    precision=(2, 5, 9, 8),
    gammas=(0.01,),
    scaling_clips=(2,),
    scaling_lengths=(6,),
    scaling_shape=(3, 4, 8),
    scaling_fixed_clips=2,
    accelerator=((4, 5, 9, 8),),
)
