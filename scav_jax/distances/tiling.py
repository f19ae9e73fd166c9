"""The one tiling that every distance shares: all pairs by tiles, each of which the backward pass computes again."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scav_jax.distances.options import check_count
from scav_jax.shapes import Distances

# On an accelerator a tile is to fill the machine and leave room for the towers; on CPU each distance knows its best.
_ACCELERATOR_TILE_BYTES = 2**28
# What spares the backward pass a second solution, named SOLUTION by its distance, is kept up to this size.
_KEPT_BYTES = {"cpu": 2**26}
_ACCELERATOR_KEPT_BYTES = 2**30
SOLUTION = "solution"


_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


@contextmanager
def compiling_for(backend: str) -> Iterator[None]:
    """Within, sizes are chosen for this backend ("cpu", "gpu", "tpu") instead of the one that JAX found."""
    token = _TARGET.set(backend)
    try:
        yield
    finally:
        _TARGET.reset(token)


def target() -> str:
    """The backend that sizes are chosen for."""
    return _TARGET.get() or jax.default_backend()


class Tiles(NamedTuple):
    """Clips of x and of y in a tile, and whether solutions are kept for the backward pass."""

    x: int
    y: int
    keep: bool = False

    @property
    def pairs(self) -> int:
        return self.x * self.y


def choose(
    tile_size: int | None, x: jax.Array, y: jax.Array, *, pair_bytes: int, cpu_tile_bytes: int, kept_pair_bytes: int = 0
) -> Tiles:
    """tile_size clips at most; None: chosen from the shapes of x (Bx, n, d) and y (By, m, d) and from the backend.

    pair_bytes: what a block holds for each pair. kept_pair_bytes: what keeping its solution takes; a given tile_size
    asks for the least memory, and keeps none.
    """
    if tile_size is not None:
        check_count("tile_size", tile_size)
        return Tiles(min(tile_size, len(x)), min(tile_size, len(y)))
    backend = target()
    pairs = max(1, (cpu_tile_bytes if backend == "cpu" else _ACCELERATOR_TILE_BYTES) // pair_bytes)
    keep = 0 < kept_pair_bytes * len(x) * len(y) <= _KEPT_BYTES.get(backend, _ACCELERATOR_KEPT_BYTES)
    # Eight times as many clips of the side with the shorter sequences: that side's gradient is added up once a tile,
    # and its clips lie next to each other in memory.
    x_is_wide = x.shape[1] <= y.shape[1]
    wide, narrow = (len(x), len(y)) if x_is_wide else (len(y), len(x))
    wide = _even(wide, min(pairs, max(math.isqrt(8 * pairs), pairs // narrow)))
    narrow = _even(narrow, pairs // wide)
    return Tiles(wide, narrow, keep) if x_is_wide else Tiles(narrow, wide, keep)


def _even(clips: int, most: int) -> int:
    """The size that cuts `clips` into the fewest tiles of at most `most`, as even as can be: the least padding."""
    return math.ceil(clips / math.ceil(clips / max(1, most)))


def over_pairs(block: Callable, x_clips: Any, y_clips: Any, tiles: Tiles) -> Distances:
    """block(x_clips, y_clips) -> (Bx, By) by tiles. Rows outside, so that the backward pass adds up y once a row."""
    x_clips, y_clips = _along_the_same_mesh_axes(x_clips, y_clips)
    policy = jax.checkpoint_policies.save_only_these_names(SOLUTION) if tiles.keep else None
    if tiles.x == _count(x_clips) and tiles.y == _count(y_clips):
        return block(x_clips, y_clips)
    tile = jax.checkpoint(lambda x_tile, y_tile: block(x_tile, y_tile).T, prevent_cse=False, policy=policy)

    def row(x_tile):
        return over_tiles(partial(tile, x_tile), y_clips, tiles.y).T

    return over_tiles(row, x_clips, tiles.x)


def over_tiles(function: Callable, clips: Any, size: int) -> jax.Array:
    """function(clips) -> (B, ...) over tiles of `size` clips; the last one is filled up with copies, then cut."""
    count = _count(clips)
    if size >= count:
        return function(clips)
    tiles = math.ceil(count / size)

    def split(leaf):
        filling = [leaf[-1:]] * (tiles * size - count)
        return jnp.concatenate([leaf, *filling]).reshape(tiles, size, *leaf.shape[1:])

    results = jax.lax.map(function, jax.tree.map(split, clips))
    return results.reshape(tiles * size, *results.shape[2:])[:count]


def _count(clips):
    return len(jax.tree.leaves(clips)[0])


def _along_the_same_mesh_axes(x_clips, y_clips):
    """Inside jax.shard_map, both sides vary along all axes that either does: the custom gradients ask for it."""
    zeros = [jnp.zeros_like(leaf, shape=(), dtype=jnp.int32) for leaf in jax.tree.leaves((x_clips, y_clips))]
    zero = jnp.sum(jnp.stack(zeros))
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), (x_clips, y_clips))
