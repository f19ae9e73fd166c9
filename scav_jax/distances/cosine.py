"""Cosine distance of masked means: the aggregate baseline (CAV) and the first stage of hybrid retrieval."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scav_jax.distances import ground
from scav_jax.distances.ground import XMasks, XSequence, XSequences, YMasks, YSequence, YSequences
from scav_jax.shapes import Distances

OPTIONS: dict = {}


def pair(x: XSequence, x_mask: Bool[Array, " n"], y: YSequence, y_mask: Bool[Array, " m"]) -> Float[Array, ""]:
    """1 - cos of the means over valid positions; 1 where a mean is zero (the paper's CAV)."""
    x_mean = jnp.sum(jnp.where(x_mask[:, None], x, 0), axis=0) / jnp.sum(x_mask)
    y_mean = jnp.sum(jnp.where(y_mask[:, None], y, 0), axis=0) / jnp.sum(y_mask)
    return 1 - jnp.sum(ground.unit_norm(x_mean) * ground.unit_norm(y_mean))


def pair_alignment(
    x: XSequence, x_mask: Bool[Array, " n"], y: YSequence, y_mask: Bool[Array, " m"]
) -> Float[Array, "n m"]:
    """Means compare every frame with every step: uniform over the valid ones, sum 1."""
    return jnp.outer(x_mask / jnp.sum(x_mask), y_mask / jnp.sum(y_mask)).astype(x.dtype)


def check_options() -> None:
    """Nothing to check: it has no options of its own."""


def prepare(
    x: XSequences, x_mask: XMasks | None, y: YSequences, y_mask: YMasks | None, *, precision: str
) -> tuple[Float[Array, "Bx d"], Float[Array, "By d"]]:
    """Once a clip: the direction of its mean."""
    return _direction(x, x_mask), _direction(y, y_mask)


def _direction(frames, mask):
    # The sum, unlike the mean, needs no valid length: the norm divides either away.
    return ground.unit_norm(jnp.sum(frames if mask is None else jnp.where(mask[:, :, None], frames, 0), axis=1))


def block(x: Float[Array, "Bx d"], y: Float[Array, "By d"], *, precision: str) -> Distances:
    """All pairs by one matrix product."""
    return 1 - ground.product("id,jd->ij", x, y, precision)


def tile_budget(x: Float[Array, "Bx d"], y: Float[Array, "By d"]) -> dict[str, int]:
    """A block is a part of the result and nothing else."""
    return dict(pair_bytes=x.dtype.itemsize, cpu_tile_bytes=2**25)
