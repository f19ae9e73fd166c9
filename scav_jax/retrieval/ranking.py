"""Orders within whole rows of distances, in NumPy alone."""

import numpy as np
from jaxtyping import Float, Int


def hybrid_distances(
    aggregate: Float[np.ndarray, "Q G"], sequence: Float[np.ndarray, "Q G"], k: int
) -> Float[np.ndarray, "Q G"]:
    """Distances that rank as hybrid retrieval does: the k nearest by `aggregate` first, ordered by `sequence`.

    The others follow in their aggregate order. Ties stay ties, but for one across the k-th place, which the lower
    column wins. Only the order of the result means something. ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    if k >= aggregate.shape[1]:
        return sequence
    aggregate, sequence = aggregate.astype(np.float64), sequence.astype(np.float64)
    order = np.argsort(aggregate, axis=1, kind="stable")
    last = np.take_along_axis(aggregate, order[:, k - 1 : k], axis=1)
    place = np.argsort(order, axis=1, kind="stable")
    behind = sequence.max(axis=1, keepdims=True) + 1 + aggregate - last
    return np.where(place < k, sequence, behind)


def smallest(matrix: Float[np.ndarray, "Q G"], k: int) -> Int[np.ndarray, "Q found"]:
    """(Q, min(k, G)) columns of the k smallest of each row, ascending, equal ones by position."""
    if k >= matrix.shape[1]:
        return np.argsort(matrix, axis=1, kind="stable")
    # Of those equal to the k-th smallest, the first: a partition alone would take any.
    last = np.partition(matrix, k - 1, axis=1)[:, k - 1 : k]
    chosen = matrix < last
    room = k - chosen.sum(axis=1, keepdims=True)
    ties = matrix == last
    chosen |= ties & (np.cumsum(ties, axis=1) <= room)
    columns = np.nonzero(chosen)[1].reshape(len(matrix), k)
    order = np.argsort(np.take_along_axis(matrix, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
