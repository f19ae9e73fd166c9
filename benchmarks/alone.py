"""Sections of benchmarks.distances that need no other package: memory, precision, scaling, an accelerator's limits."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, peers, tables
from benchmarks.measure import Contender, Data
from benchmarks.plot import Point
from benchmarks.settings import EPSILON, GAMMA, ITERATIONS, OPTIONS, Sizes, ours
from benchmarks.tables import NONE, Job, Table
from scav_jax.distances import pairwise

ROOT = Path(__file__).parents[1]
RUN_BYTES = 6 * 2**30  # temporaries up to which the scaling section runs a program

# H200: 790 TFLOP/s of bfloat16 products and 4.3 TB/s were measured; 67 TFLOP/s of float32 outside the tensor cores is
# the vendor's figure (nvidia.com, H200 SXM).
LIMITS: dict[str, float] = {"bfloat16": 790e12, "float32": 67e12}
BYTES_PER_S = 4.3e12


def memory(sizes: Sizes) -> Iterator[Job]:
    n, m, d = sizes.memory_shape
    table = Table(
        f"Temporaries at tile_size={sizes.memory_tile}, forward and gradient, {n} x {m}, d = {d}",
        (
            "distance",
            *(f"B = {count}" for count in sizes.memory_clips),
            "growth per doubling",
            "at most",
            "met",
            "of all",
        ),
        "Compiled temporaries beyond four float32 matrices of B x B, in brackets all of them; the last column is the "
        "growth of all.",
    )
    for name in OPTIONS:
        yield Job(table, f"temporaries, {name}", partial(_memory, sizes, name))


def _memory(sizes, name):
    n, m, d = sizes.memory_shape
    totals = []
    for count in sizes.memory_clips:
        shapes = Data(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((count, n, d), (count, m, d), (count, count))))
        distances = ours(name, tile_size=sizes.memory_tile)
        totals.append(measure.temporaries(measure.compile_loss(distances, shapes)))
    beyond = [max(0, total - 16 * count**2) for total, count in zip(totals, sizes.memory_clips, strict=True)]
    cells = [f"{tables.size(b)} ({tables.size(total)})" for b, total in zip(beyond, totals, strict=True)]
    limit = 2.1 if sizes.targets else None
    growths, of_all = _growths(beyond), _growths(totals)
    cells += [_listed(growths), NONE if limit is None else f"{limit:g}", tables.within(max(growths), limit)]
    return [(name, *cells, _listed(of_all))]


def _growths(sizes):
    """From one to the next; 1 where nothing grows out of nothing."""
    return [b / a if a else np.inf if b else 1.0 for a, b in itertools.pairwise(sizes)]


def _listed(growths):
    return ", ".join(f"{growth:.2f}" for growth in growths)


def large(sizes: Sizes) -> Iterator[Job]:
    n, m, d = sizes.memory_shape
    table = Table(
        f"One forward and gradient of {sizes.large_clips} x {sizes.large_clips} pairs, {n} x {m}, d = {d}",
        ("distance", "time", "temporaries", "peak of the process", "at most", "met", "peak on the device"),
        "Each in a process of its own, default tiles; the peak is that of the process's resident memory, JAX included.",
    )
    for name in sizes.large:
        yield Job(table, f"{sizes.large_clips} clips, {name}", partial(_large, sizes, name))


def _large(sizes, name):
    command = [sys.executable, "-m", "benchmarks.large", name, f"--clips={sizes.large_clips}", "--shape"]
    command += map(str, sizes.memory_shape)
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return [(name, f"failed ({result.returncode}): {last[:120]}", *[NONE] * 3, "no", NONE)]
    found = json.loads(result.stdout.splitlines()[-1])
    limit = 4 * 2**30 if sizes.targets else None
    cells = name, tables.seconds(found["seconds"]), tables.size(found["temporaries"]), tables.size(found["peak"])
    return [(*cells, tables.size(limit), tables.within(found["peak"], limit), tables.size(found["device_peak"]))]


_YARDSTICKS = ("one cost", "one sum", "costs rounded")


def precision(sizes: Sizes) -> Iterator[Job]:
    count, n, m, d = sizes.precision
    table = Table(
        f"Soft-DTW in float32 against float64, {count} x {count} pairs of {n} x {m}, d = {d}",
        ("gamma", "values", "gradients", *_YARDSTICKS, *(f"over {name}" for name in _YARDSTICKS), "float64 apart"),
        "Relative errors, norms over all entries, and beside the gradients' three yardsticks, none of them a proven "
        "bound. One cost, one sum: 2^-24 max(cost) / gamma and 2^-24 max|value| / gamma, by which rounding one cost or "
        "one cumulated cost, to float32 changes a probability of the soft minimum. Costs rounded: the gradients' error "
        "in float64 (the definition, written apart from the library) with nothing but the ground costs rounded to "
        "float32. Float64 apart: the library's float64 gradients from that definition's.",
    )
    for gamma in sizes.gammas:
        yield Job(table, f"gamma {gamma:g}", partial(_precision, sizes, gamma))


def _precision(sizes, gamma):
    data = measure.clips(*sizes.precision)
    distances = partial(pairwise, "dtw", gamma=gamma, normalize=False)
    single = measure.jax_contender("float32", distances, data).run()
    with jax.enable_x64(True):
        wide = Data(*(jnp.asarray(np.asarray(side, np.float64)) for side in data[:3]))
        double = measure.jax_contender("float64", distances, wide).run()
        rounded = measure.jax_contender("", partial(peers.soft_dtw_definition, gamma=gamma, rounded=True), wide).run()
        definition = measure.jax_contender("", partial(peers.soft_dtw_definition, gamma=gamma), wide).run()
    values, error = measure.difference(single.values, double.values), _gradient_error(single, double)
    largest = (np.max(np.abs(np.asarray(v))) for v in (peers.all_costs(data.x, data.y), double.values))
    yardsticks = [*(2.0**-24 * float(value) / gamma for value in largest), _gradient_error(rounded, definition)]
    cells = map(tables.relative, (values, error, *yardsticks))
    ratios = (f"{error / yardstick:.2g}" for yardstick in yardsticks)
    return [(f"{gamma:g}", *cells, *ratios, tables.relative(_gradient_error(double, definition)))]


def _gradient_error(result, exact):
    """Relative, of both gradients as one vector."""
    return measure.difference(*(np.concatenate([np.ravel(side) for side in r[1:]]) for r in (result, exact)))


def scaling(sizes: Sizes, points: list[Point]) -> Iterator[Job]:
    n, m, d = sizes.scaling_shape
    table = Table(
        f"Scaling, forward and gradient, d = {d} (distances.png)",
        ("B", "n x m", *(f"{who}, {what}" for what in ("time", "temporaries") for who in _SCALED)),
        f"ott-jax as its documentation has it: SoftDTW vmapped; Sinkhorn as a scan, on costs by one product. "
        f"No time: its temporaries exceed {tables.size(RUN_BYTES)}. One run where it takes more than "
        f"{measure.SLOW_S:g} s, else a median.",
    )
    for count in sizes.scaling_clips:
        yield Job(table, f"B = {count}", partial(_scaling, sizes, (count, n, m, d), "clips", points))
    for length in sizes.scaling_lengths:
        shape = (sizes.scaling_fixed_clips, n, length, d)
        yield Job(table, f"m = {length}", partial(_scaling, sizes, shape, "length", points))


def _first_of(function, *arguments, **more):
    return lambda data: function(data, *arguments, **more)[0]()


def _of_ours(name):
    return lambda data: measure.jax_contender("scav_jax", ours(name), data)


_SCALED: dict[str, Callable[[Data], Contender]] = {
    "euclidean": _of_ours("euclidean"),
    "dtw": _of_ours("dtw"),
    "ott dtw": _first_of(peers.ott_soft_dtw, GAMMA),
    "wasserstein": _of_ours("wasserstein"),
    "ott wasserstein": _first_of(peers.ott_sinkhorn, EPSILON, ITERATIONS, unrolled=False),
}


def _scaling(sizes, shape, axis, points):
    data = measure.clips(*shape)
    times, sizes_ = [], []
    for name, make in _SCALED.items():
        try:
            contender = make(data)
        except ImportError:
            times.append("not installed")
            sizes_.append(NONE)
            continue
        fits = (contender.temporaries or 0) <= min(RUN_BYTES, measure.memory_limit())
        took = measure.median_time(contender.run, sizes.seconds / 8) if fits else np.nan
        distance = name.split()[-1]
        who = "ott-jax" if name.startswith("ott") else "scav_jax"
        points.append(Point(who, distance, shape[0], shape[1], shape[2], took, contender.temporaries or 0, axis))
        times.append(tables.seconds(took))
        sizes_.append(tables.size(contender.temporaries))
    return [(str(shape[0]), f"{shape[1]} x {shape[2]}", *times, *sizes_)]


def accelerator(sizes: Sizes) -> Iterator[Job]:
    table = Table(
        "On the accelerator: forward and gradient, and the share of its limits",
        ("distance", "B", "n x m, d", "precision", "time", "products", "of their limit", "traffic", "of its limit",
         "temporaries"),
        "Products: operations of the matrix products, the backward pass's recomputation included, against 790 TFLOP/s "
        "in bfloat16 and 67 TFLOP/s in float32. Traffic: bytes if each pass over the cells goes through memory, "
        "against 4.3 TB/s; above 100 % they stayed on the chip. Limits are those of an H200.",
    )  # fmt: skip
    for shape in sizes.accelerator:
        for name in OPTIONS:
            for kind in ("float32", "bfloat16"):
                yield Job(table, f"{name}, {shape}, {kind}", partial(_accelerator, sizes, shape, name, kind))


def _accelerator(sizes, shape, name, kind):
    count, n, m, d = shape
    data = measure.clips(*shape)
    operations, traffic = work(name, *shape)
    cells = [name, str(count), f"{n} x {m}, {d}", kind]
    counted = [f"{operations / 1e12:.3g} TFLOP", f"{traffic / 1e9:.3g} GB"]
    try:
        contender = measure.jax_contender("scav_jax", ours(name, precision=kind), data)
        took = measure.median_time(contender.run, sizes.seconds)
    except jax.errors.JaxRuntimeError as error:  # out of memory: a row, too
        return [(*cells, f"failed: {str(error).splitlines()[0][:80]}", counted[0], NONE, counted[1], NONE, NONE)]
    of_products, of_traffic = operations / LIMITS[kind] / took, traffic / BYTES_PER_S / took
    shares = f"{100 * of_products:.2g} %", f"{100 * of_traffic:.2g} %"
    return [
        (*cells, tables.seconds(took), counted[0], shares[0], counted[1], shares[1], tables.size(contender.temporaries))
    ]


def work(name: str, count: int, n: int, m: int, d: int) -> tuple[float, float]:
    """Operations of the matrix products, and bytes of one float32 per cell and pass, of a forward and gradient."""
    pairs, inputs = count**2, 4.0 * count * (n + m) * d
    if name == "euclidean":  # one product over the shorter side, and two for the gradients; no cells
        return 6.0 * pairs * min(n, m) * d, 3 * inputs + 12.0 * pairs
    cells = pairs * n * m
    products = 8.0 * cells * d  # the costs, the costs again, and two for the gradients
    if name == "dtw":  # costs written and read, twice; soft minima written and read; the alignment, too
        return products, 4.0 * cells * 8 + inputs
    return products, 4.0 * cells * (2 * ITERATIONS + 4) + inputs  # two reads an iteration; costs, plan
