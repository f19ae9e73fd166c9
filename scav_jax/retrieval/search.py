"""The paper's three ways to rank a gallery: aggregate, sequence, hybrid (arXiv 2407.05782, retrieval)."""

from jaxtyping import Float
from numpy import argsort, float64, ndarray, take_along_axis, where


def hybrid_distances(
    aggregate: Float[ndarray, "Q G"], sequence: Float[ndarray, "Q G"], k: int
) -> Float[ndarray, "Q G"]:
    """Distances that rank as hybrid retrieval does: the k nearest by `aggregate` first, ordered by `sequence`.

    The others follow in their aggregate order. Ties stay ties, but for one across the k-th place, which the lower
    column wins. Only the order of the result means something. ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    if k >= aggregate.shape[1]:
        return sequence
    aggregate, sequence = aggregate.astype(float64), sequence.astype(float64)
    order = argsort(aggregate, axis=1, kind="stable")
    last = take_along_axis(aggregate, order[:, k - 1 : k], axis=1)
    place = argsort(order, axis=1, kind="stable")
    behind = sequence.max(axis=1, keepdims=True) + 1 + aggregate - last
    return where(place < k, sequence, behind)
