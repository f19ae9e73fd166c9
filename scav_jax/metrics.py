"""Retrieval metrics and their intervals, in NumPy alone; ties and NaN have one stated rule each."""

import numpy as np
from numpy.typing import ArrayLike

RECALLS = (1, 5, 10)


def retrieval_metrics(distances: ArrayLike, *, relevant: ArrayLike | None = None) -> dict[str, float]:
    """ "R@1", "R@5", "R@10" (percent of all Q queries), "MedR" and "MRR" of (Q, G) distances; see `ranks`.

    A query without a relevant item is no hit at any k, also where its rank G + 1 <= k.
    """
    distances = np.asarray(distances)
    rank = ranks(distances, relevant)
    found = rank <= distances.shape[1]
    recalls = {f"R@{k}": 100 * float(np.mean(found & (rank <= k))) for k in RECALLS}
    return {**recalls, "MedR": float(np.median(rank)), "MRR": float(np.mean(1 / rank))}


def ranks(distances: ArrayLike, relevant: ArrayLike | None = None) -> np.ndarray:
    """(Q,) rank of each query's best relevant item: 1 + the non-relevant items at most as far; a tie counts against us.

    distances: (Q, G), smaller = closer; NaN is a ValueError. relevant: (Q,) integer columns, (Q, G) bool, or None: item
    i for query i, which needs Q <= G. A query with no relevant item ranks G + 1.
    """
    distances = _checked(distances)
    is_relevant = _relevance(distances.shape, relevant)
    best = np.min(distances, axis=1, initial=np.inf, where=is_relevant)
    rank = 1 + np.sum((distances <= best[:, None]) & ~is_relevant, axis=1)
    return np.where(is_relevant.any(axis=1), rank, distances.shape[1] + 1)


def average_precision(distances: ArrayLike, relevant: ArrayLike) -> np.ndarray:
    """(Q,) average precision, 0..1: the mean, over a query's relevant items, of the relevant share down to each.

    distances: (Q, G), smaller = closer; NaN is a ValueError. relevant: (Q, G) bool (one class, say) or (Q,) columns.
    Irrelevant items come before relevant ones at the same distance; a query with no relevant item scores 0. The mean
    over all queries is mAP.
    """
    distances = _checked(distances)
    is_relevant = _relevance(distances.shape, relevant)
    order = np.lexsort((is_relevant, distances), axis=1)
    hit = np.take_along_axis(is_relevant, order, axis=1)
    precision = np.cumsum(hit, axis=1) / np.arange(1, distances.shape[1] + 1)
    return np.sum(precision, axis=1, where=hit) / np.maximum(1, hit.sum(axis=1))


def _checked(distances: ArrayLike) -> np.ndarray:
    distances = np.asarray(distances)
    if not np.issubdtype(distances.dtype, np.floating):
        distances = distances.astype(np.float64)
    if distances.ndim != 2 or not distances.size:
        raise ValueError(f"distances: expected a non-empty (queries, gallery) matrix, got shape {distances.shape}")
    if np.isnan(distances).any():
        raise ValueError(f"distances: expected numbers, got {int(np.isnan(distances).sum())} NaN")
    return distances


def _relevance(shape, relevant):
    queries, gallery = shape
    if relevant is None:
        if queries > gallery:
            raise ValueError(f"relevant: needed with more queries ({queries}) than gallery items ({gallery})")
        relevant = np.arange(queries)
    relevant = np.asarray(relevant)
    if relevant.dtype == bool and relevant.shape == shape:
        return relevant
    if not np.issubdtype(relevant.dtype, np.integer) or relevant.shape != (queries,):
        expected = f"({queries},) integer columns or {shape} bool"
        raise ValueError(f"relevant: expected {expected}, got {relevant.dtype} {relevant.shape}")
    if relevant.min() < 0 or relevant.max() >= gallery:
        raise ValueError(f"relevant: expected columns 0..{gallery - 1}, got {relevant.min()}..{relevant.max()}")
    return np.arange(gallery)[None, :] == relevant[:, None]


def bootstrap_interval(
    hits: ArrayLike, groups: ArrayLike, *, num_samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `hits`, in their unit.

    hits: (S, Q), one value a training seed and query (rank <= k, 1 / rank, ...); groups: (Q,) labels. Clips of a group
    are related (one recording, one composition), so their hits are not independent: each sample draws whole groups, and
    seeds, with replacement. With one seed the interval covers the choice of queries only; one group makes it a point.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected between 0 and 1, got {level}")
    sums, sizes = _by_group(hits, groups)
    num_seeds, num_groups = sums.shape
    rng = np.random.default_rng(seed)
    seed_draws = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), num_samples)
    group_draws = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), num_samples)
    means = np.sum((seed_draws @ sums) * group_draws, axis=1) / (num_seeds * (group_draws @ sizes))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p_value(
    first: ArrayLike, second: ArrayLike, groups: ArrayLike, *, num_samples: int = 9999, seed: int = 0
) -> float:
    """How often chance alone would part the means of two runs on the same queries as far: two-sided, 1 = no difference.

    first, second: (S, Q) as in `bootstrap_interval`. A randomisation test: if the runs do not differ, each group of
    related queries might as well have its two results exchanged.
    """
    gains, _ = _by_group(np.asarray(first, np.float64) - np.asarray(second, np.float64), groups)
    gains = gains.sum(axis=0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (num_samples, len(gains)))
    as_far = np.abs(signs @ gains) >= np.abs(gains.sum()) * (1 - 1e-12)
    return float((1 + as_far.sum()) / (1 + num_samples))


def _by_group(hits: ArrayLike, groups: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(S, groups) sums of the hits, (groups,) sizes."""
    hits, groups = np.asarray(hits, np.float64), np.asarray(groups)
    if hits.ndim != 2 or not hits.size or groups.shape != hits.shape[1:]:
        raise ValueError(f"hits, groups: expected (seeds, queries) and (queries,), got {hits.shape} and {groups.shape}")
    if np.isnan(hits).any():
        raise ValueError(f"hits: expected numbers, got {int(np.isnan(hits).sum())} NaN")
    names, member = np.unique(groups, return_inverse=True)
    return np.stack([np.bincount(member, row, len(names)) for row in hits]), np.bincount(member, minlength=len(names))
