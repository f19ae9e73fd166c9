"""The axis glossary, the shape types and the mask rule that every module shares.

Axes: B clips in a batch, n visual frames, m audio steps, d common width, D feature width, Q queries, G gallery size.
A mask is boolean, (B, length), True = valid, and a prefix: True... False..., with at least one True.
None in place of a mask says that every clip is full.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Sequences = Float[Array, "B length d"]
Sequence = Float[Array, "length d"]
Masks = Bool[Array, "B length"]
Distances = Float[Array, "Q G"]


def prefix_mask(lengths: Int[Array, " B"], length: int) -> Masks:
    """(B,) valid lengths -> (B, length) mask, True where position < valid length."""
    return jnp.arange(length)[None, :] < lengths[:, None]


def full_mask(sequences: Sequences) -> Masks:
    """The mask that None stands for: every position of every clip is valid."""
    return jnp.ones(sequences.shape[:2], bool)


def check_mask(mask: Masks | None, sequences: Sequences, name: str) -> None:
    """Raises ValueError naming `name` unless `mask` is a prefix mask of `sequences`; checks values when concrete."""
    if mask is None:
        return
    if mask.shape != sequences.shape[:2]:
        raise ValueError(f"{name}_mask: expected shape {sequences.shape[:2]} to match {name}, got {mask.shape}")
    if mask.dtype != bool:
        raise ValueError(f"{name}_mask: expected bool, got {mask.dtype}")
    if isinstance(mask, jax.core.Tracer):
        return
    valid = np.asarray(mask)
    if not valid[:, 0].all() or (valid[:, 1:] & ~valid[:, :-1]).any():
        clip = int(np.argmax(~valid[:, 0] | (valid[:, 1:] & ~valid[:, :-1]).any(axis=1)))
        raise ValueError(f"{name}_mask: expected a prefix (True... False..., at least one True), clip {clip} is not")
