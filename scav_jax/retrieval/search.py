"""Search of a gallery: the paper's ways (aggregate, sequence, hybrid; arXiv 2407.05782), and an exact one by bounds.

The exact one is our own: lower bounds (bounds.py) order the gallery, distances are computed best-first, and the search
ends when no bound is left below the k-th best. Every answer says what it took, and what is proven of it.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from scav_jax.distances import pairwise
from scav_jax.retrieval import bounds


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


@dataclass(frozen=True)
class Clips:
    """Encoded clips of one side: sequences (B, length, d) and their prefix masks (B, length), None: all are np.full."""

    sequences: Float[np.ndarray, "B length d"]
    mask: Bool[np.ndarray, "B length"] | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: Any) -> "Clips":
        return Clips(self.sequences[rows], None if self.mask is None else self.mask[rows])

    def masked(self) -> "Clips":
        return self if self.mask is not None else Clips(self.sequences, np.ones(self.sequences.shape[:2], bool))


@dataclass(frozen=True)
class Found:
    """The k nearest of each query, nearest first, equal ones by position, and how that is known.

    computed: distances that were computed for it; bound: none of the others is below this (inf: there are none).
    """

    indices: Int[np.ndarray, "Q k"]
    distances: Float[np.ndarray, "Q k"]
    computed: Int[np.ndarray, " Q"]
    bound: Float[np.ndarray, " Q"]

    @property
    def certified(self) -> Bool[np.ndarray, " Q"]:
        """Whether no clip of the gallery is nearer than these: proven, not likely."""
        return self.bound >= self.distances[:, -1]


MODES = ("aggregate", "sequence", "hybrid", "exact")
_BOUND_BYTES = 2**26  # of reduced ground costs at a time


def search(
    name: str,
    queries: Clips,
    gallery: Clips,
    k: int,
    *,
    mode: str = "exact",
    queries_are: str = "x",
    candidates: int = 50,
    rank: int = 8,
    batch_size: int = 64,
    chunk: int = 32,
    progress: bool = False,
    **options: Any,
) -> Found:
    """The k clips of the gallery nearest to each query by the distance `name` with its options, as `pairwise` has them.

    mode: "sequence" computes all distances; "exact" gives the same clips, best-first by lower bounds (bounds.py, with
    `rank` directions), `chunk` distances at a time until the bound of the next passes the k-th best; "hybrid" computes
    those of the `candidates` nearest by the cosine of means, and the bounds tell whether that was enough; "aggregate"
    ranks by that cosine. queries_are: "x" (visual to audio) or "y". Distances are differentiable nowhere here.

    ValueError: an unknown mode or side, k or candidates that cannot be.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if queries_are not in ("x", "y"):
        raise ValueError(f"queries_are: expected x or y, got {queries_are!r}")
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k: expected 1 to the {len(gallery)} clips of the gallery, got {k}")
    if mode == "hybrid" and not k <= candidates:
        raise ValueError(f"candidates: expected at least k = {k}, got {candidates}")
    if (queries.mask is None) != (gallery.mask is None):  # both or neither
        queries, gallery = queries.masked(), gallery.masked()
    scope = _Scope(name, queries_are, tuple(sorted(options.items())), gallery, rank, chunk, batch_size)
    batches = range(0, len(queries), batch_size)
    found = [
        scope.find(queries[first : first + batch_size], k, mode, candidates)
        for first in tqdm(batches, disable=not progress, unit="batch")
    ]
    parts = zip(*((part.indices, part.distances, part.computed, part.bound) for part in found), strict=True)
    return Found(*(np.concatenate(part) for part in parts))


class _Scope:
    """One gallery under one distance, ready to be searched."""

    def __init__(self, name, queries_are, options, gallery, rank, chunk, batch_size):
        self.name, self.queries_are, self.options, self.gallery = name, queries_are, dict(options), gallery
        self.chunk, self.batch_size = min(chunk, len(gallery)), batch_size
        frames = gallery.sequences if gallery.mask is None else gallery.sequences[gallery.mask]
        self.basis = bounds.basis(frames.reshape(-1, gallery.sequences.shape[2])[:100_000], rank)
        self.plain = {key: value for key, value in self.options.items() if key != "debiased"}
        self.self_terms: Any = self._self_share(gallery) if self.options.get("debiased") else None

    def find(self, queries: Clips, k: int, mode: str, candidates: int) -> Found:
        if mode in ("aggregate", "sequence"):
            name, options = (self.name, self.options) if mode == "sequence" else ("cosine", {})
            return _nearest(self._all(name, queries, **options), k)
        lower = self._lower_bounds(queries)
        if mode == "hybrid":
            order = np.argsort(self._all("cosine", queries), axis=1, kind="stable")[:, :candidates]
            return self._best_first(queries, lower, order, k, stop=False)
        return self._best_first(queries, lower, np.argsort(lower, axis=1, kind="stable"), k, stop=True)

    def _best_first(self, queries, lower, order, k, *, stop):
        """Distances in the given order, a chunk at a time; with stop, until the next bound passes the k-th best."""
        count = len(queries)
        indices, nearest = np.zeros((count, k), np.int64), np.full((count, k), np.inf)
        computed = np.zeros(count, np.int64)
        active = np.arange(count)
        while len(active):
            places = computed[active, None] + np.arange(self.chunk)[None]
            inside = places < order.shape[1]
            rows = np.take_along_axis(order[active], np.where(inside, places, 0), axis=1)
            values = np.where(inside, self._some(queries[active], rows), np.inf)
            together = np.concatenate([nearest[active], values], axis=1)
            which = np.concatenate([indices[active], rows], axis=1)
            best = np.lexsort((which, together), axis=1)[:, :k]
            nearest[active], indices[active] = (np.take_along_axis(part, best, axis=1) for part in (together, which))
            computed[active] = np.minimum(computed[active] + self.chunk, order.shape[1])
            left = computed[active] < order.shape[1]
            if stop:
                following = lower[active, order[active, np.minimum(computed[active], order.shape[1] - 1)]]
                left &= following <= nearest[active, -1]
            active = active[left]
        rest = lower.copy()
        for query in range(count):
            rest[query, order[query, : computed[query]]] = np.inf
        return Found(indices, nearest, computed, rest.min(axis=1))

    def _some(self, queries, rows):
        """(A, chunk) distances of each query to the clips of its own row."""
        size = self.batch_size
        padded = np.concatenate([np.arange(len(queries)), np.zeros(max(0, size - len(queries)), np.int64)])
        chosen, mask = rows[padded], self.gallery.mask
        run = _rows_program(self.name, self.queries_are, tuple(sorted(self.options.items())), mask is not None)
        own = queries[padded]
        return np.asarray(
            run(own.sequences, own.mask, self.gallery.sequences[chosen], None if mask is None else mask[chosen])
        )[: len(queries)]

    def _all(self, name, queries, **options):
        sides = queries, self.gallery
        x, y = sides if self.queries_are == "x" else sides[::-1]
        run = _matrix_program(name, tuple(sorted(options.items())))
        matrix = np.asarray(run(x.sequences, y.sequences, x.mask, y.mask))
        return matrix if self.queries_are == "x" else matrix.T

    def _lower_bounds(self, queries):
        """(Q, G), by tiles of the gallery of one size, so that one program serves all."""
        own = self._self_share(queries) if self.self_terms is not None else None
        cells = len(queries) * queries.sequences.shape[1] * self.gallery.sequences.shape[1] * 4
        size = max(1, min(len(self.gallery), _BOUND_BYTES // cells))
        columns = []
        for first in range(0, len(self.gallery), size):
            rows = np.minimum(np.arange(first, first + size), len(self.gallery) - 1)
            sides = queries, self.gallery[rows]
            x, y = sides if self.queries_are == "x" else sides[::-1]
            run = _bounds_program(self.name, tuple(sorted(self.plain.items())))
            tile = run(x.sequences, y.sequences, x.mask, y.mask, self.basis)
            if own is not None:
                shares = own, tuple(part[rows] for part in self.self_terms)
                normalize = {"normalize": self.plain["normalize"]} if "normalize" in self.plain else {}
                x_self, y_self = shares if self.queries_are == "x" else shares[::-1]
                tile = bounds.debias(self.name, tile, x_self, y_self, **normalize)
            tile = np.asarray(tile)
            columns.append((tile if self.queries_are == "x" else tile.T)[:, : len(self.gallery) - first])
        return np.concatenate(columns, axis=1).astype(np.float64)

    def _self_share(self, clips):
        return tuple(
            jnp.asarray(part)
            for part in _self_program(self.name, tuple(sorted(self.plain.items())))(clips.sequences, clips.mask)
        )


def _nearest(matrix, k):
    order = np.argsort(matrix, axis=1, kind="stable")[:, :k]
    rows = len(matrix)
    return Found(
        order, np.take_along_axis(matrix, order, axis=1), np.full(rows, matrix.shape[1]), np.full(rows, np.inf)
    )


@cache
def _matrix_program(name, options):
    return jax.jit(partial(pairwise, name, **dict(options)))


@cache
def _bounds_program(name, options):
    return jax.jit(partial(bounds.lower_bounds, name, **dict(options)))


@cache
def _self_program(name, options):
    return jax.jit(lambda sequences, mask: bounds.self_share(name, sequences, mask, **dict(options)))


@cache
def _rows_program(name, queries_are, options, masked):
    def row(query, query_mask, clips, mask):
        one = query[None], query_mask[None] if masked else None
        x, y = (one, (clips, mask)) if queries_are == "x" else ((clips, mask), one)
        matrix = pairwise(name, x[0], y[0], x[1], y[1], **dict(options))
        return matrix[0] if queries_are == "x" else matrix[:, 0]

    axes = (0, 0, 0, 0) if masked else (0, None, 0, None)
    return jax.jit(jax.vmap(row, axes))
