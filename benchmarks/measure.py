"""How two functions that give the same are compared: checked against each other first, then timed in turns.

A claim is a ratio of one run. Times of one contender alone mean little on a machine that others share.
"""

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SLOW_S = 2.0  # what takes longer is warm after its first run
# Before each turn of a comparison: gigabytes that the other freed, and threads of its that still spin, cost whoever is
# next up to 1.7 times its time (soft-DTW after ott's, seen on two cores).
REST_S = 0.3


class Data(NamedTuple):
    """x (B, n, d), y (B, m, d), the weights (B, B) of the distances in the loss, float32; masks (B, length) or None."""

    x: Any
    y: Any
    weights: Any
    x_mask: Any = None
    y_mask: Any = None


class Result(NamedTuple):
    """Distances (B, B) and the loss's gradients, None where only values are asked for."""

    values: Any
    x_gradient: Any = None
    y_gradient: Any = None


@dataclass(frozen=True)
class Contender:
    """`run` returns when all is computed. temporaries: compiled temporary bytes, None where nobody knows.

    tolerance: the largest relative difference from ours that still counts as the same.
    """

    name: str
    run: Callable[[], Result]
    temporaries: int | None = None
    tolerance: float = 1e-3
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """ours and peer in seconds (medians), ratio: the median over pairs of peer's time over ours."""

    ours: Contender
    ours_s: float
    peer: Contender | None = None
    peer_s: float = np.nan
    ratio: float = np.nan
    value_difference: float = np.nan
    gradient_difference: float = np.nan
    note: str = ""


@functools.lru_cache(maxsize=1)
def clips(count: int, n: int, m: int, d: int, seed: int = 0) -> Data:
    """Smooth unit-norm sequences: random walks seen twice, n and m times, with noise; matched clips are close."""
    rng = np.random.default_rng(seed)
    knots = 16

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    walk = np.cumsum(normal(count, knots, d), axis=1) / np.float32(np.sqrt(knots))
    walk += normal(count, 1, d) + normal(1, 1, d) / 2  # what the clip shows, what all clips share

    def seen(length):
        at = (np.arange(length, dtype=np.float32) + 0.5) * (knots - 1) / length
        left = at.astype(int)
        part = (at - left)[None, :, None]
        frames = walk[:, left] * (1 - part) + walk[:, left + 1] * part + normal(count, length, d) / 4
        return jnp.asarray(frames / np.linalg.norm(frames, axis=-1, keepdims=True))

    return Data(seen(n), seen(m), jnp.asarray(normal(count, count)))


def ragged(data: Data, seed: int = 1) -> Data:
    """The same clips, each cut to a length between half and all of it."""
    rng = np.random.default_rng(seed)

    def mask(frames):
        count, length = frames.shape[:2]
        return jnp.asarray(np.arange(length)[None, :] < rng.integers((length + 1) // 2, length + 1, (count, 1)))

    return data._replace(x_mask=mask(data.x), y_mask=mask(data.y))


def jax_contender(name: str, distances: Callable, data: Data, *, gradient: bool = True, **details) -> Contender:
    """distances(x, y) or, with masks, distances(x, y, x_mask, y_mask) -> (B, B), compiled; as compile_loss has it."""
    compiled = compile_loss(distances, data, gradient=gradient)

    def run():
        values, gradients = compiled(*data)
        return Result(*jax.block_until_ready((values, *gradients)))

    return Contender(name, run, temporaries(compiled), **details)


def compile_loss(distances: Callable, data: Data, *, gradient: bool = True):
    """The compiled function *data -> distances and the gradients of sum(weights * distances) in x and y.

    `data` may hold shapes only.
    """

    def loss(x, y, weights, *masks):
        values = distances(x, y) if masks[0] is None else distances(x, y, *masks)
        return jnp.sum(values * weights), values

    def forward(*data):
        return loss(*data)[1], ()

    def both(*data):
        (_, values), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(*data)
        return values, gradients

    return jax.jit(both if gradient else forward).lower(*data).compile()


def temporaries(compiled) -> int:
    """Bytes that the compiled function needs beside inputs and results: the same in every run."""
    return compiled.memory_analysis().temp_size_in_bytes


def memory_limit() -> float:
    """Bytes of temporaries that may be tried here."""
    stats = jax.local_devices()[0].memory_stats() or {}
    free = stats.get("bytes_limit", 0) or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0.6 * free


def difference(a, b) -> float:
    """|a - b| / |b|, norms over all entries."""
    a, b = (np.asarray(v, np.float64) for v in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def differences(result: Result, reference: Result) -> tuple[float, float]:
    """Of the values and, the worse of the two, of the gradients (NaN: none asked for)."""
    if reference.x_gradient is None:
        return difference(result.values, reference.values), np.nan
    pairs = zip(result[1:], reference[1:], strict=True)
    return difference(result.values, reference.values), max(difference(a, b) for a, b in pairs)


def with_time(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a run gives, and its seconds."""
    start = time.perf_counter()
    found = run()
    return found, time.perf_counter() - start


def timed(run: Callable[[], Any]) -> float:
    return with_time(run)[1]


def rested(run: Callable[[], Any]) -> float:
    time.sleep(REST_S)
    return timed(run)


def median_time(run: Callable[[], Any], seconds: float) -> float:
    """Median over about `seconds` of repeated runs, 3 to 15, after one for warmth; of slow ones the first counts."""
    first = timed(run)
    if first > SLOW_S:
        return first
    times = [timed(run)]
    while len(times) < 15 and (len(times) < 3 or sum(times) < seconds):
        times.append(timed(run))
    return statistics.median(times)


def product_time(x: Any, y: Any, seconds: float) -> float:
    """Of one matrix product of all rows of x (I, d) with all rows of y (J, d), in full float32: see `median_time`."""
    return median_time(product(x, y), seconds)


def product(x: Any, y: Any) -> Callable[[], Any]:
    """A run of that product."""
    compiled = jax.jit(lambda x, y: jnp.matmul(x, y.T, precision="highest")).lower(x, y).compile()
    return lambda: jax.block_until_ready(compiled(x, y))


def in_turns(runs: Sequence[Callable[[], Any]], seconds: float) -> list[tuple[float, ...]]:
    """Each run's seconds, turn by turn, for about `seconds` in all (3 to 15 turns)."""
    turns: list[tuple[float, ...]] = []
    while len(turns) < 15 and (len(turns) < 3 or sum(map(sum, turns)) < seconds):
        turns.append(tuple(map(rested, runs)))
    return turns


def compare(ours: Contender, settings: Sequence[Callable[[], Contender]], seconds: float) -> Comparison:
    """Ours against the fastest of a peer's settings that gives the same, for about `seconds` of pairs (3 to 15)."""
    reference = ours.run()
    result = Comparison(ours, timed(ours.run))
    right: list[tuple[float, Contender, tuple[float, float]]] = []
    notes: list[str] = []
    for setting in settings:
        peer, seconds_once, apart, problem = _trial(setting, reference)
        if problem:
            notes.append(problem)
        else:
            right.append((seconds_once, peer, apart))
    if not right:
        return replace(result, note="; ".join(notes))
    right.sort(key=lambda entry: entry[0])
    best, peer, (value_difference, gradient_difference) = right[0]
    notes = [peer.note] * bool(peer.note) + notes
    notes += [f"{other.name}: {once / best:.1f} times its time" for once, other, _ in right[1:]]
    pairs = in_turns((ours.run, peer.run), seconds)
    return Comparison(
        ours,
        statistics.median(a for a, _ in pairs),
        peer,
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
        value_difference,
        gradient_difference,
        "; ".join(notes),
    )


def _trial(setting, reference):
    """A contender, its time, its differences from the reference, and why it cannot run, if so."""
    try:
        peer = setting()
        if (peer.temporaries or 0) > memory_limit():
            return peer, np.inf, (np.inf, np.inf), f"{peer.name}: {peer.temporaries / 2**30:.1f} GiB do not fit here"
        result, once = with_time(peer.run)
        apart = differences(result, reference)
        checked = apart[:1] if reference.x_gradient is None else apart
        if not all(v <= peer.tolerance for v in checked):  # NaN is wrong, too
            return peer, np.inf, apart, f"{peer.name}: wrong, values {apart[0]:.0e} and gradients {apart[1]:.0e} apart"
        return peer, once if once > SLOW_S else timed(peer.run), apart, ""
    except Exception as error:  # a peer that cannot run here is a line of the table, not the end of it
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return None, np.inf, (np.inf, np.inf), message[:160]


def hardware() -> str:
    """What a table's numbers were measured on, and with which JAX."""
    device = jax.local_devices()[0]
    software = f"Python {platform.python_version()}, jax {jax.__version__}"
    if device.platform != "cpu":
        return f"Backend {jax.default_backend()}, {device.device_kind}; {software}"
    return f"Backend cpu, {os.cpu_count()} cores of {processor()}; {software}"


def processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
