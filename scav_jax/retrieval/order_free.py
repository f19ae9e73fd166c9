"""Late interaction without order, as retrieval of text has it: what a sequential distance gains over these is order.

maxsim: each query frame finds its nearest frame of the clip, mean of the cosine distances (Khattab and Zaharia,
ColBERT, arXiv 2004.12832); chamfer: the mean of that both ways (Barrow et al., 1977). For evaluation alone.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scav_jax.distances import ground, tiling
from scav_jax.shapes import Distances, Masks, Sequences, full_mask

NAMES = ("maxsim", "chamfer")


def matrix(
    name: str,
    queries: Sequences,
    gallery: Float[Array, "G steps d"],
    queries_mask: Masks | None,
    gallery_mask: Bool[Array, "G steps"] | None,
) -> Distances:
    """(Q, G) distances, 0..2, of every query to every clip. Masks as everywhere. ValueError: an unknown name."""
    if name not in NAMES:
        raise ValueError(f"distance: expected one of {', '.join(NAMES)}, got {name!r}")
    sides = ((queries, queries_mask), (gallery, gallery_mask))
    clips = (dict(frames=side, mask=full_mask(side) if mask is None else mask) for side, mask in sides)
    return _program(name)(*clips)


@cache
def _program(name):
    def run(queries, gallery):
        pair_bytes = 4 * queries["frames"].shape[1] * gallery["frames"].shape[1]
        tiles = tiling.choose(None, queries["frames"], gallery["frames"], pair_bytes=pair_bytes, cpu_tile_bytes=2**25)
        return tiling.over_pairs(partial(_block, name), queries, gallery, tiles)

    return jax.jit(run)


def _block(name, queries, gallery):
    costs = ground.cost_block(queries["frames"], gallery["frames"], "cosine", "float32").swapaxes(1, 2)
    valid = queries["mask"][:, None, :, None] & gallery["mask"][None, :, None, :]
    costs = jnp.where(valid, costs, jnp.inf)
    found = _mean(jnp.min(costs, axis=3), queries["mask"][:, None])
    return found if name == "maxsim" else (found + _mean(jnp.min(costs, axis=2), gallery["mask"][None])) / 2


def _mean(costs, mask):
    return jnp.sum(jnp.where(mask, costs, 0), axis=2) / jnp.sum(mask, axis=2)
