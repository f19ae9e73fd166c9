"""Search of a gallery: the paper's ways (aggregate, sequence, hybrid; arXiv 2407.05782), and an exact one by bounds.

The exact one is our own: lower bounds (bounds.py) order the gallery, distances are computed best-first, and the search
ends when no bound is left below the k-th best. Every answer says what it took, and what is proven of it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from scav_jax import parallel
from scav_jax.retrieval import bounds, programs
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.ranking import smallest

MODES = ("aggregate", "sequence", "hybrid", "exact")
_TILE_BYTES = 2**26  # of a tile's frames, and of its ground costs to a batch of queries
_HEAD = 1024  # clips that are sorted before any is looked at
_BASIS_FRAMES = 100_000
_HOPELESS = 0.25  # of the gallery: so many distances query by query take as long as all of them together


@dataclass(frozen=True)
class Found:
    """The k nearest of each query, nearest first, equal ones by position, and how that is known.

    computed: distances that were computed for it; bound: none of the others is below this (inf: there are none).
    """

    indices: Int[np.ndarray, "Q k"]
    distances: Float[np.ndarray, "Q k"]
    computed: Int[np.ndarray, " Q"]
    bound: Float[np.ndarray, " Q"]

    @classmethod
    def nothing(cls, count: int, k: int) -> "Found":
        """Of no gallery, to `take` clips into."""
        nearest = np.zeros((count, k), np.int64), np.full((count, k), np.inf, np.float32)
        return cls(*nearest, np.zeros(count, np.int64), np.full(count, np.inf, np.float32))

    def take(self, active: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
        """Keeps, of what is held and these clips of the active queries, the nearest."""
        values = np.concatenate([self.distances[active], values], axis=1)
        rows = np.concatenate([self.indices[active], rows], axis=1)
        best = np.lexsort((rows, values), axis=1)[:, : self.indices.shape[1]]
        self.distances[active] = np.take_along_axis(values, best, axis=1)
        self.indices[active] = np.take_along_axis(rows, best, axis=1)

    def __getitem__(self, queries: Any) -> "Found":
        return Found(*(part[queries] for part in self._parts()))

    def among(self, rows: Int[np.ndarray, " G"]) -> "Found":
        """With indices of the whole that the searched gallery was these rows of."""
        return replace(self, indices=rows[self.indices])

    @staticmethod
    def together(found: Sequence["Found"]) -> "Found":
        return Found(*(np.concatenate(parts) for parts in zip(*(some._parts() for some in found), strict=True)))

    def _parts(self) -> tuple[np.ndarray, ...]:
        return self.indices, self.distances, self.computed, self.bound

    @property
    def certified(self) -> Bool[np.ndarray, " Q"]:
        """Whether no clip of the gallery is nearer than these: proven, not likely."""
        return self.bound >= self.distances[:, -1]


def search(
    name: str,
    queries: Clips,
    gallery: Clips,
    k: int,
    *,
    mode: str = "exact",
    candidates: int = 50,
    progress: bool = False,
    **settings: Any,
) -> Found:
    """The k clips of the gallery nearest to each query, by a `Searcher` of these settings that is used once."""
    settings = {"batch_size": max(1, min(64, len(queries)))} | settings
    searcher = Searcher(name, gallery, **settings)
    return searcher.search(queries, k, mode=mode, candidates=candidates, progress=progress)


class Searcher:
    """A gallery prepared for search by the distance `name` with its options, as `pairwise` has them.

    queries_are: "x" (the gallery is of y) or "y". rank: directions of the bounds. chunk: distances of a query that are
    computed at a time. batch_size: queries at a time; fewer are filled up, so that one program serves all. mesh: the
    gallery is spread over its devices, tile by tile (None: one device); its frames stay where they are, on the host or
    in a mapped file, and of them only reduced ones on the devices. Nothing here is differentiable.

    ValueError: an unknown side, distance or option; in `search`, an unknown mode, k or candidates that cannot be.
    """

    def __init__(
        self,
        name: str,
        gallery: Clips,
        *,
        queries_are: str = "x",
        rank: int = 16,
        chunk: int = 32,
        batch_size: int = 64,
        mesh: Mesh | None = None,
        **options: Any,
    ):
        if queries_are not in ("x", "y"):
            raise ValueError(f"queries_are: expected x or y, got {queries_are!r}")
        self.name, self.gallery, self.queries_are = name, gallery, queries_are
        self._rank, self._chunk, self._batch_size = rank, min(chunk, len(gallery)), batch_size
        self._mesh = mesh or parallel.make_mesh(jax.local_devices()[:1])
        self._options = programs.key(options)
        self._kept: dict[Any, list[Any]] = {}
        self._basis: bounds.Basis | None = None
        self._is_hopeless = False

    def search(
        self, queries: Clips, k: int, *, mode: str = "exact", candidates: int = 50, progress: bool = False
    ) -> Found:
        """The k clips nearest to each query.

        mode: "sequence" computes all distances; "exact" gives the same clips, best-first by lower bounds until the
        next one passes the k-th best; "hybrid" computes those of the `candidates` nearest by the cosine of means, and
        the bounds tell whether that was enough; "aggregate" ranks by that cosine.
        """
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if not 1 <= k <= len(self.gallery):
            raise ValueError(f"k: expected 1 to the {len(self.gallery)} clips of the gallery, got {k}")
        if mode == "hybrid" and not k <= candidates:
            raise ValueError(f"candidates: expected at least k = {k}, got {candidates}")
        found = [self._find(batch, k, mode, candidates)[:count] for batch, count in self._batches(queries, progress)]
        return Found.together(found)

    def until_found(
        self, queries: Clips, relevant: Int[np.ndarray, " Q"], *, progress: bool = False
    ) -> tuple[Float[np.ndarray, "Q G"], Int[np.ndarray, " Q"]]:
        """As much of the distances as tells each query's relevant clip its exact rank, and how many that took.

        Clips whose bounds are above the relevant one's distance are inf: they come after it, and so do all others.
        """
        found, first = [], 0
        for batch, count in self._batches(queries, progress):
            columns = np.resize(relevant[first : first + count], len(batch))
            found.append([part[:count] for part in self._until_found(batch, columns)])
            first += count
        matrix, computed = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return matrix, computed

    def _batches(self, queries: Clips, progress: bool) -> Iterator[tuple[Clips, int]]:
        """Queries, batch_size at a time, and how many of them were asked for."""
        if self.gallery.mask is None and queries.mask is not None:
            self.gallery = self.gallery.masked()
            self._kept.clear()
        elif self.gallery.mask is not None:
            queries = queries.masked()
        starts = range(0, len(queries), self._batch_size)
        for first in tqdm(starts, disable=not progress, unit="batch", desc="search"):
            rows = np.arange(first, min(first + self._batch_size, len(queries)))
            yield queries[np.resize(rows, self._batch_size)], len(rows)

    def _find(self, queries, k, mode, candidates):
        if mode == "exact" and self._is_hopeless:
            mode = "sequence"
        if mode in ("aggregate", "sequence"):
            matrix = self._means(queries) if mode == "aggregate" else self._all(queries)
            nearest = smallest(matrix, k)
            everything = np.full(len(matrix), matrix.shape[1]), np.full(len(matrix), np.inf)
            return Found(nearest, np.take_along_axis(matrix, nearest, axis=1), *everything)
        lower, answer = self._lower_bounds(queries), Found.nothing(len(queries), k)
        if mode == "exact":
            limits = answer.distances[:, -1]  # a view: it falls as better clips are found
            for active, rows, values in self._best_first(queries, lower, limits, answer.computed, answer.bound):
                answer.take(active, rows, values)
            return self._find(queries, k, "sequence", candidates) if self._is_hopeless else answer
        order, everyone = smallest(self._means(queries), min(candidates, lower.shape[1])), np.arange(len(queries))
        for first in range(0, order.shape[1], self._chunk):
            rows = order[:, first : first + self._chunk]
            answer.take(everyone, rows, self._some(queries, rows))
        np.put_along_axis(lower, order, np.inf, axis=1)
        answer.computed[:], answer.bound[:] = order.shape[1], lower.min(axis=1)
        return answer

    def _until_found(self, queries, relevant):
        everything = np.full(len(queries), len(self.gallery))
        if self._is_hopeless:
            return self._all(queries), everything
        limits, lower = self._some(queries, relevant[:, None])[:, 0], self._lower_bounds(queries)
        matrix = np.full(lower.shape, np.inf, np.float32)
        computed, bound = np.zeros(len(queries), np.int64), limits.copy()
        for active, rows, values in self._best_first(queries, lower, limits, computed, bound):
            matrix[active[:, None], rows] = values
        if self._is_hopeless:
            return self._all(queries), everything
        matrix[np.arange(len(queries)), relevant] = limits
        return matrix, computed

    def _best_first(self, queries, lower, limits, computed, bound):
        """(active queries, their next clips, those distances) in the order of the bounds while these are within limits.

        Keeps `computed` and `bound`, the lowest bound of what is left, up to date. Ends early, for good, where the
        bounds leave so much of a large gallery that all distances at once are faster.
        """
        active, done, size = np.arange(len(queries)), 0, lower.shape[1]
        is_new = size > _HEAD
        order = smallest(lower, _HEAD)
        while len(active):
            rows = order[active, done : done + self._chunk]
            yield active, rows, self._some(queries[active], rows)
            if is_new and np.isfinite(limits).all():
                is_new, self._is_hopeless = False, bool(np.mean(lower <= limits[:, None]) > _HOPELESS)
                if self._is_hopeless:
                    return
            done += rows.shape[1]
            computed[active] = done
            if done == order.shape[1] < size:
                order = smallest(lower, 8 * done)
            bound[active] = lower[active, order[active, done]] if done < size else np.inf
            active = active[(bound[active] <= limits[active]) & (done < size)]

    def _some(self, queries, rows):
        """(A, C) distances of each query to the clips of its own row."""
        count, chunk = rows.shape
        # Sizes in steps of four: few programs, little filling.
        size = max(self._mesh.size, min(self._batch_size, 4 ** math.ceil(math.log(count, 4))))
        size += -size % self._mesh.size
        every, clips = np.resize(np.arange(count), size), np.resize(np.arange(chunk), self._chunk)
        own, others = queries[every], self.gallery[rows[every][:, clips].ravel()]
        run = programs.rows(self.name, self.queries_are, self._options, self._mesh)
        values = run(None, (own.sequences, own.mask, others.sequences, others.mask))
        return np.asarray(parallel.gather(values))[:count, :chunk]

    def _all(self, queries):
        run = programs.matrix(self.name, self.queries_are, self._options, self._mesh)
        return self._by_tiles(run, queries.pair(), (tile.pair() for tile in self._tiles()))

    def _means(self, queries):
        """Cosine distances of the means."""
        queries, tiles = self._prepared("means", queries, programs.means, None)
        return self._by_tiles(programs.matrix("cosine", self.queries_are, (), self._mesh), queries, tiles)

    def _lower_bounds(self, queries):
        lengths = queries.sequences.shape[1], self.gallery.sequences.shape[1]
        lengths = lengths if self.queries_are == "x" else lengths[::-1]
        masked = self.gallery.mask is not None
        length = bounds.common_length(self.name, *lengths, masked=masked, **dict(self._options))
        program = partial(programs.prepared, self.name, self._options, length)
        (near, facts), tiles = self._prepared(("bounds", length), queries, program, self._basis_for(queries))
        # What has no reduced form is not kept on the devices either.
        tiles = (
            (kept[0] or bounds.Reduced(*tile.pair()), kept[1]) for kept, tile in zip(tiles, self._tiles(), strict=True)
        )
        run = programs.below(self.name, self.queries_are, self._options, self._mesh)
        return self._by_tiles(run, (near or bounds.Reduced(*queries.pair()), facts), tiles)

    def _prepared(self, what, queries, program, shared):
        """The queries, and the tiles of the gallery, which are kept, after a program."""
        if what not in self._kept:
            run = program(self._mesh)
            self._kept[what] = [run(shared, tile.pair()) for tile in self._tiles()]
        return jax.tree.map(np.asarray, program(None)(shared, queries.pair())), self._kept[what]

    def _basis_for(self, queries):
        """Of the gallery and of the first queries that came, whose frames may lie elsewhere."""
        if self._basis is None:
            self._basis = bounds.basis([self._some_frames(side) for side in (self.gallery, queries)], self._rank)
        return self._basis

    def _some_frames(self, clips):
        """(N, d) as the distance sees them, from all over."""
        some = clips[:: math.ceil(len(clips) * clips.sequences.shape[1] / _BASIS_FRAMES)]
        frames = some.sequences.reshape(-1, some.sequences.shape[2]) if some.mask is None else some.sequences[some.mask]
        options = dict(self._options)
        if options.get("unit_norm") or options.get("cost") == "cosine":
            frames = frames / np.maximum(np.linalg.norm(frames, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return frames

    def _tiles(self) -> Iterator[Clips]:
        """The gallery in tiles of one size; the last is filled up with copies of its last clip."""
        _, length, width = self.gallery.sequences.shape
        costs = self._batch_size * length**2 * (self.name != "euclidean")
        size = max(1, min(len(self.gallery), _TILE_BYTES // (4 * max(costs, length * width))))
        size += -size % self._mesh.size
        for first in range(0, len(self.gallery), size):
            rows = slice(first, first + size)  # of a mapped file, no copy
            missing = first + size > len(self.gallery)
            yield self.gallery[np.minimum(np.arange(first, first + size), len(self.gallery) - 1) if missing else rows]

    def _by_tiles(self, run, queries, tiles):
        """(Q, G) of a program's (tile, Q)."""
        columns = [np.asarray(parallel.gather(run(queries, tile))).T for tile in tiles]
        return np.concatenate(columns, axis=1)[:, : len(self.gallery)]
