"""Sections of benchmarks.distances that set ours beside other packages: soft-DTW, Wasserstein, Euclidean."""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import measure, peers, tables, torch_parts
from benchmarks.measure import Data
from benchmarks.settings import EPSILON, GAMMA, ITERATIONS, Sizes, ours
from benchmarks.tables import COMPARED, NONE, Job, Table
from scav_jax.distances import pairwise


class Line(NamedTuple):
    """A row of a comparison: a peer's settings, or the package that is missing for them, and what is asked for."""

    package: str
    settings: Callable[[Data], list[peers.Setting]]
    target: float | None = None
    stretch: float | None = None
    memory_target: float | None = None
    gradient: bool = True


def comparisons(table: Table, sizes: Sizes, what: str, name: str, shape: tuple[int, ...], lines: list[Line]):
    """A job a line, all on the same clips."""
    for line in lines:
        yield Job(table, f"{what}, {line.package}", partial(_compared, table, sizes, what, name, shape, line))


def _compared(table, sizes, what, name, shape, line):
    what += ", forward and gradient" if line.gradient else ", values only"
    data = measure.clips(*shape)
    if jax.default_backend() != "cpu" and line.package in peers.ON_CPU:
        return [tables.absent(what, f"{line.package}: runs on the CPU")]
    try:
        settings = line.settings(data)
    except ImportError:
        return [tables.absent(what, f"{line.package}: not installed")]
    if sizes.one_setting:
        settings = settings[:1]
    result = measure.compare(_ours(name, shape, line.gradient), settings, sizes.seconds)
    if result.note:
        table.notes.append(f"{what}, {result.peer.name if result.peer else line.package}: {result.note}")
    asked = (line.target, line.stretch, line.memory_target) if sizes.targets else (None, None, None)
    return [tables.compared(what, result, *asked)]


@functools.lru_cache(maxsize=1)
def _ours(name, shape, gradient):
    return measure.jax_contender("scav_jax", ours(name), measure.clips(*shape), gradient=gradient)


def dtw(sizes: Sizes) -> Iterator[Job]:
    count, n, m = sizes.dtw
    table = Table(f"Soft-DTW, {count} x {count} pairs of {n} x {m}, gamma {GAMMA:g}", COMPARED)
    for width in sizes.widths:
        first = width == sizes.widths[0]

        def given(function, **more):
            return lambda data: function(data, gamma=GAMMA, **more)

        def given_part(part):
            return lambda data: torch_parts.settings(part(GAMMA), data)

        lines = [Line("ott-jax", given(peers.ott_soft_dtw), 12, 15 if first else None, 50)]
        if first:
            lines += [
                Line("ott-jax", given(peers.ott_soft_dtw_by_rows)),
                Line("pysdtw", given_part(torch_parts.pysdtw)),
                Line("tslearn", given_part(torch_parts.tslearn)),
                Line("reference", partial(reference, "dtw")),
            ]
        lines.append(Line("tslearn", given(peers.tslearn_soft_dtw), 8, gradient=False))
        yield from comparisons(table, sizes, f"d = {width}", "dtw", (count, n, m, width), lines)
    products = Table(
        "What the matrix products of soft-DTW take",
        ("what", "operations", "alone", "ours, all of it", "share"),
        "Ground costs are one product for the values, and four for the gradient: once forward, once more backward, for "
        "costs are not kept, and one for each side's gradient. Alone: that count at the speed of one product of a tile "
        "of 64 x 8 clips. No sweep, however fast, brings the whole below it.",
    )
    for width in sizes.widths:
        for gradient in (False, True):
            what = f"d = {width}, {'forward and gradient' if gradient else 'values only'}"
            yield Job(products, what, partial(_products, sizes, what, (count, n, m, width), gradient))


def _products(sizes, what, shape, gradient):
    count, n, m, width = shape
    data = measure.clips(*shape)
    x, y = data.x.reshape(-1, width)[: 64 * n], data.y.reshape(-1, width)[: 8 * m]
    once = measure.product_time(x, y, sizes.seconds)
    operations = (4 if gradient else 1) * 2 * count**2 * n * m * width
    alone = operations / (2 * len(x) * len(y) * width) * once
    whole = measure.median_time(_ours("dtw", shape, gradient).run, sizes.seconds)
    return [(what, f"{operations / 1e9:.3g} G", tables.seconds(alone), tables.seconds(whole), f"{alone / whole:.0%}")]


def reference(name: str, data: Data) -> list[peers.Setting]:
    """The definition of one pair, a scan over cells, vmapped twice and differentiated by JAX: in tiles, or whole."""

    def setting(how, size):
        distances = ours(name, implementation="reference", tile_size=size)
        return partial(measure.jax_contender, f'implementation="reference", {how}', distances, data)

    return [setting("in tiles", None), setting("all pairs at once", len(data.x))]


def wasserstein(sizes: Sizes) -> Iterator[Job]:
    count, n, m = sizes.wasserstein
    intro = "Peers get one cost tensor that a single matrix product made, except GeomLoss, which makes its own."
    title = f"Wasserstein, {count} x {count} pairs of {n} x {m}, epsilon {EPSILON:g}, {ITERATIONS} iterations"
    table = Table(title, COMPARED, intro)
    for width in sizes.widths:
        first = width == sizes.widths[0]

        def given(function, **more):
            return lambda data: function(data, epsilon=EPSILON, iterations=ITERATIONS, **more)

        def given_part(part, **more):
            return lambda data: torch_parts.settings(part(EPSILON, ITERATIONS, **more), data)

        lines = [
            Line("ott-jax", given(peers.ott_sinkhorn, unrolled=first), *((4, 6, 10) if first else ())),
            Line("ott-jax", given(peers.ott_sinkhorn_default), 6 if first else None),
        ]
        if first:
            lines += [
                Line("ott-jax", given(peers.ott_sinkhorn_by_rows)),
                Line("ott-jax", given(peers.ott_sinkhorn_kernel)),
                Line("POT", given_part(torch_parts.pot, method="log_sinkhorn")),
                Line("POT", given_part(torch_parts.pot, method="sinkhorn")),
                Line("geomloss", given_part(torch_parts.geomloss)),
            ]
        yield from comparisons(table, sizes, f"d = {width}", "wasserstein", (count, n, m, width), lines)


def euclidean(sizes: Sizes) -> Iterator[Job]:
    table = Table("Interpolated Euclidean, forward and gradient", COMPARED)
    count, n, m, d = sizes.broadcast
    what = f"B = {count}, {n} x {m}, d = {d}"
    line = Line("broadcast", peers.broadcast, 100)
    yield from comparisons(table, sizes, what, "euclidean", sizes.broadcast, [line])
    count, n, lengths, d = sizes.product
    for m in lengths:
        line = Line("one product", peers.one_product, {64: 1.6, 128: 3.0}.get(m))
        yield from comparisons(table, sizes, f"B = {count}, {n} x {m}, d = {d}", "euclidean", (count, n, m, d), [line])
    errors = Table(
        "Interpolated Euclidean against float64",
        ("what", "error of the whole matrix", "worst entry", "smallest distance", "at most", "met"),
        "Relative errors of float32 values against NumPy in float64. The limit is for the whole matrix (norms); a "
        "single small distance is what is left of two norms of size 1, and loses digits accordingly.",
    )
    shape = (count, n, lengths[0], d)
    yield Job(errors, "float64", partial(_euclidean_error, sizes, shape))
    masks = Table(
        "Interpolated Euclidean, clips of different lengths with resample=T",
        (
            *("what", "masked", "unmasked", "ratio", "at most", "met", "masked against the reference"),
            *("temporaries, masked", "unmasked"),
        ),
        "Both forms resample to T positions. Where T > n, the unmasked form folds its weights onto the shorter side, "
        "n, and so does fewer operations; clips with lengths of their own cannot.",
    )
    for positions in sizes.positions:
        yield Job(masks, f"T = {positions}", partial(_masked, sizes, shape, positions))


def _euclidean_error(sizes, shape):
    data = measure.clips(*shape)
    found = np.asarray(jax.jit(ours("euclidean"))(data.x, data.y), np.float64)
    x, y = (np.asarray(side, np.float64) for side in (data.x, data.y))
    m = y.shape[1]
    weights = _interpolation(x.shape[1], m)
    x, y = (side.reshape(len(side), -1) for side in (weights @ x, y))
    expected = (np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1)[None, :] - 2 * x @ y.T) / m
    error, worst = measure.difference(found, expected), np.max(np.abs(found - expected) / expected)
    limit = 1e-5 if sizes.targets else None
    what = f"B = {shape[0]}, {shape[1]} x {m}, d = {shape[3]}"
    cells = what, tables.relative(error), tables.relative(worst), f"{expected.min():.2g}"
    return [(*cells, NONE if limit is None else f"{limit:g}", tables.within(error, limit))]


def _interpolation(source, target):
    """(target, source) weights in float64, written apart from the library: half-pixel centres, clamped."""
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(source)[None, :]))


def _masked(sizes, shape, positions):
    data = measure.clips(*shape)
    cut = measure.ragged(data)
    distances = partial(pairwise, "euclidean", resample=positions)
    few = [side[:8] for side in (cut.x, cut.y, cut.x_mask, cut.y_mask)]
    definition = partial(distances, implementation="reference")
    apart = measure.difference(*(jax.jit(function)(*few) for function in (distances, definition)))
    unmasked = measure.jax_contender("unmasked", distances, data)
    masked = partial(measure.jax_contender, "masked", distances, cut, tolerance=np.inf)
    result = measure.compare(unmasked, [masked], sizes.seconds)
    limit = 1.3 if sizes.targets else None
    what = f"T = {positions}, B = {shape[0]}, {shape[1]} x {shape[2]}, d = {shape[3]}"
    if result.peer is None:
        return [(what, result.note, tables.seconds(result.ours_s), *[NONE] * 6)]
    cells = [what, tables.seconds(result.peer_s), tables.seconds(result.ours_s), tables.times(result.ratio)]
    cells += [NONE if limit is None else f"{limit:g}x", tables.within(result.ratio, limit), tables.relative(apart)]
    return [(*cells, tables.size(result.peer.temporaries), tables.size(unmasked.temporaries))]
