"""Sequential distances between every clip of x and every clip of y."""

from scav_jax.distances.pairwise import (
    DISTANCES,
    alignment,
    can_be_negative,
    definition,
    first_dual,
    marginal_error,
    option_names,
    options,
    pairwise,
)

__all__ = [
    "DISTANCES",
    "alignment",
    "can_be_negative",
    "definition",
    "first_dual",
    "marginal_error",
    "option_names",
    "options",
    "pairwise",
]
