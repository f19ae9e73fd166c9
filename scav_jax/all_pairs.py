"""A split's encoded clips and what is computed between all of them, once, for every ranking that asks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from scav_jax import distances, parallel
from scav_jax.retrieval import order_free
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.search import Searcher

DIRECTIONS = ("v2a", "a2v")

Encoded = dict[str, tuple[np.ndarray, np.ndarray | None]]  # (sequences (G, length, d), mask) of each modality


class AllPairs:
    """Queries and gallery: a split's clips both, by the distances of a config.

    queries: these clips encoded in another way than the gallery's (None: in the same). clips: positions, ascending, of
    those that count (None: all); members, as the methods take them, are among these.
    """

    def __init__(
        self,
        config: Any,
        mesh: Mesh,
        gallery: Encoded,
        queries: Encoded | None = None,
        clips: Int[np.ndarray, " some"] | None = None,
    ) -> None:
        self.config, self.mesh = config, mesh
        self._queries, self._gallery = gallery if queries is None else queries, gallery
        self._same = queries is None
        self._clips = np.arange(len(gallery[config.pairs[0][0]][0])) if clips is None else clips
        self._matrices: dict[tuple[str, str], np.ndarray] = {}

    def queries(self, direction: str, members: Int[np.ndarray, " Q"]) -> Clips:
        """The clips of the side that a direction begins at."""
        return Clips(*self._queries[self._modalities(direction)[0]])[members]

    def gallery(self, direction: str, members: Int[np.ndarray, " Q"]) -> Clips:
        """The clips of the other side."""
        return Clips(*self._gallery[self._modalities(direction)[1]])[members]

    def _modalities(self, direction):
        return self.config.pairs[0] if direction == "v2a" else self.config.pairs[0][::-1]

    def searcher(self, name: str, direction: str, members: Int[np.ndarray, " Q"]) -> Searcher:
        """Of the gallery, by the config's options of a distance."""
        options = distances.definition(name, self.config.distance)
        queries_are = "x" if direction == "v2a" else "y"
        return Searcher(name, self.gallery(direction, members), queries_are=queries_are, mesh=self.mesh, **options)

    def matrix(self, name: str, direction: str, members: Int[np.ndarray, " Q"]) -> Float[np.ndarray, "Q Q"]:
        """Distances of every query to every clip; computed for all clips when first asked for, and kept."""
        # The distance itself knows no direction, while queries and gallery are encoded alike.
        turned = self._same and name != "maxsim" and direction == "a2v"
        key = name, "v2a" if turned else direction
        if key not in self._matrices:
            self._matrices[key] = self._compute(*key)
        at = np.searchsorted(self._clips, members)
        return (self._matrices[key].T if turned else self._matrices[key])[np.ix_(at, at)]

    def _compute(self, name, direction):
        queries, gallery = self.queries(direction, self._clips), self.gallery(direction, self._clips)
        if name in order_free.NAMES:
            sides = jax.tree.map(jnp.asarray, (queries.sequences, gallery.sequences, queries.mask, gallery.mask))
            return np.asarray(order_free.matrix(name, *sides))
        options = {} if name == "cosine" else distances.options(name, self.config.distance)
        if direction == "v2a":
            return parallel.matrix(name, queries.pair(), gallery.pair(), self.mesh, **options)
        return parallel.matrix(name, gallery.pair(), queries.pair(), self.mesh, **options).T
