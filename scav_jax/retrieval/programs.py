"""What search runs on devices, each compiled once: (what all of them know, what is spread over them) -> spread results.

Clips are (sequences, mask or None), options are `key`s of those of `pairwise`, mesh None is the default device.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from scav_jax import parallel
from scav_jax.distances import pairwise
from scav_jax.retrieval import bounds


def key(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options, hashable."""
    return tuple(sorted(options.items()))


@cache
def matrix(name, queries_are, options, mesh):
    """(queries, gallery) -> (G, Q) distances."""

    def between(queries, gallery):
        return _between(name, queries_are, queries, gallery, options)

    return _program(between, mesh)


@cache
def rows(name, queries_are, options, mesh):
    """(None, (queries, masks, clips, their masks)) -> (Q, C) distances of each query to its own C of the Q C clips."""

    def row(query, query_mask, clips, mask):
        one = query[None], None if query_mask is None else query_mask[None]
        return _between(name, queries_are, one, (clips, mask), options)[:, 0]

    def by_row(_, batch):
        count = len(batch[0])
        batch = *batch[:2], *jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch[2:])
        return jax.vmap(row, [None if part is None else 0 for part in batch])(*batch)

    return _program(by_row, mesh)


@cache
def means(mesh):
    """(None, clips) -> clips of one frame, the mean of the valid ones."""

    def one_frame(_, clips):
        frames, mask = clips
        weights = jnp.ones(frames.shape[:2], frames.dtype) if mask is None else mask.astype(frames.dtype)
        frames = jnp.where(weights[..., None] > 0, frames, 0)
        return jnp.sum(frames, axis=1, keepdims=True) / jnp.sum(weights, axis=1)[:, None, None], None

    return _program(one_frame, mesh)


@cache
def prepared(name, options, length, mesh):
    """(basis, clips) -> (reduced clips or None, facts), what `below` takes of them."""

    def prepare(basis, clips):
        frames, mask = clips
        known: dict[str, Any] = dict(options)
        near = bounds.reduce(name, frames, mask, basis, length=length, **known)
        return near, bounds.facts(name, frames, mask, **known)

    return _program(prepare, mesh)


@cache
def below(name, queries_are, options, mesh):
    """(queries, gallery), both (reduced clips, or the clips themselves, facts) -> (G, Q) lower bounds."""

    def bound(queries, gallery):
        (x, x_facts), (y, y_facts) = (queries, gallery) if queries_are == "x" else (gallery, queries)
        found = bounds.lower_bounds(name, x, y, x_facts, y_facts, **dict(options))
        return found.T if queries_are == "x" else found

    return _program(bound, mesh)


def _between(name, queries_are, queries, gallery, options):
    """(G, Q) distances, whichever side the queries are."""
    if queries_are == "x":
        return pairwise(name, queries[0], gallery[0], queries[1], gallery[1], **dict(options)).T
    return pairwise(name, gallery[0], queries[0], gallery[1], queries[1], **dict(options))


def _program(step, mesh):
    def run(shared, spread, axis_name=None):
        return step(shared, spread)

    return jax.jit(run if mesh is None else parallel.on_every_device(run, mesh, results_are_spread=True))
