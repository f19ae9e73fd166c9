"""A whole training step beside the same step in PyTorch, whose distances are the fastest public parts there are.

python -m benchmarks.train_step             writes benchmarks/results/train_step.md; about 25 minutes on two cores
python -m benchmarks.train_step --quick     tiny shapes through all of the code, to stdout only
python -m benchmarks.train_step --alone=eager --distance=dtw --clips=64     one contender's peak memory, as JSON

The PyTorch step is that of `scav_jax.parity`'s twin, eager and by torch.compile, on the same parameters and batches,
without dropout; ours is train.py's own program. Both are timed in turns.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import measure, page, process, tables, torch_parts
from benchmarks.measure import Comparison, Contender, Result
from benchmarks.tables import NONE, Table
from configs import base
from scav_jax import config as configs
from scav_jax import parallel, plan, training
from scav_jax.distances import options, pairwise

CONTENDERS = ("ours", "eager", "compiled")
BLOCK_TARGETS = {"dtw": 4.0, "wasserstein": 3.5, "euclidean": None}
# Of Wasserstein's kernels, as many as are fastest multiplied by vectors again and again: they stay in a core's cache.
CACHED_PAIRS = 32


class Sizes(NamedTuple):
    seconds: float = 12.0  # of pairs for each row
    lengths: tuple[int, int] = (32, 62)
    widths: tuple[int, int] = (512, 768)  # of the features
    width: int = 512
    layers: int = 2
    clips: tuple[tuple[str, int, float | None], ...] = (
        *(("cosine", 64, 0.7), ("euclidean", 64, 0.7), ("dtw", 64, 1.4), ("wasserstein", 64, 1.4)),
        *(("cosine", 32, None), ("euclidean", 32, None), ("dtw", 32, None), ("wasserstein", 32, None)),
        *(("cosine", 256, None), ("euclidean", 256, None)),
    )
    block_clips: int = 64
    targets: bool = True  # False: no torch.compile, which takes long, and no memory either


QUICK = Sizes(0, (4, 6), (5, 7), 8, 1, (("cosine", 8, None), ("dtw", 8, None)), 8, False)


def config(name: str, clips: int, sizes: Sizes) -> Any:
    found = base.get_config()
    found.batch_size = clips
    found.method = "cav" if name == "cosine" else "scav"
    found.distance.name = "euclidean" if name == "cosine" else name
    for tower, width in zip((found.model.visual, found.model.audio), sizes.widths, strict=True):
        tower.update(feature_width=width, num_layers=sizes.layers, dropout=0.0, scan_layers=False)
        if sizes.width != tower.width:
            tower.update(width=sizes.width, mlp_width=16, ffn_width=16, num_heads=2)
    return found


def features(clips: int, sizes: Sizes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = zip(("visual", "audio"), sizes.lengths, sizes.widths, strict=True)
    return {name: rng.standard_normal((clips, length, width), np.float32) for name, length, width in shapes}


def parts(name: str, found: Any) -> list[torch_parts.Part]:
    """Public ones that compute this distance of unit frames, positions appended."""
    section = found.distance
    if name == "cosine":
        return [torch_parts.cosine()]
    if name == "euclidean":
        return [torch_parts.euclidean()]
    if name == "dtw":
        return [torch_parts.pysdtw(section.gamma), torch_parts.tslearn(section.gamma)]
    given = section.epsilon, section.num_iterations
    pot = (torch_parts.pot(*given, method=method) for method in ("sinkhorn", "log_sinkhorn"))
    return [*pot, torch_parts.geomloss(*given)]


def block_table(sizes: Sizes) -> tuple[Table, dict[str, Comparison]]:
    """And what was found of each distance: its fastest peer then serves the whole step."""
    table = Table(
        "The distances alone",
        tables.COMPARED,
        f"All pairs of {sizes.block_clips} clips, {sizes.lengths[0]} x {sizes.lengths[1]}, d = {sizes.width}, forward "
        "and gradient, options of configs/base.py on unit frames with their positions. The peer is the fastest of all "
        "public parts and settings that give the same; the notes have the others.",
    )
    found_of = {}
    for name, target in BLOCK_TARGETS.items():
        found = config(name, sizes.block_clips, sizes)
        chosen = options(name, found.distance) | {"unit_norm": False, "normalize": False, "position_weight": 0.0}
        chosen = {key: value for key, value in chosen.items() if key in options(name, found.distance)}
        width = sizes.width + (name == "wasserstein")  # the position
        data = measure.clips(sizes.block_clips, *sizes.lengths, width)
        ours = measure.jax_contender("scav_jax", partial(pairwise, name, **chosen), data)
        settings = [setting for part in parts(name, found) for setting in torch_parts.settings(part, data)]
        result = measure.compare(ours, settings, sizes.seconds)
        table.rows.append(tables.compared(name, result, target if sizes.targets else None, None, None))
        table.notes.append(f"{name}: {result.note}")
        print(" | ".join(table.rows[-1]), file=sys.stderr)
        found_of[name] = result
    return table, found_of


def bounds_table(sizes: Sizes, blocks: Mapping[str, Comparison], steps: Mapping[str, Comparison]) -> Table:
    table = Table(
        "What bounds them",
        (
            *("distance", "three products", "iterations", "PyTorch's block", "block, at most", "target"),
            *("PyTorch's step", "step, at most", "target"),
        ),
        "Ground costs of all pairs are one float32 matrix product and their gradients two more, whoever makes them. "
        "Wasserstein's iterations are two products of each pair's kernel with a vector, here alone and in the fastest "
        f"form found, {CACHED_PAIRS} pairs at a time. Block, at most: with nothing else to do. Step, at most: with "
        "such a block and with encoders as fast as PyTorch's. All of a row in turns: medians, ratios of the same turn.",
    )
    targets = {name: target for name, clips, target in sizes.clips if clips == sizes.block_clips}
    for name in steps:
        if BLOCK_TARGETS.get(name) is None:
            continue
        block_peer, step_peer = blocks[name].peer, steps[name].peer
        if block_peer is None or step_peer is None:  # none ran here: the other tables say why
            continue
        iterations = _iterations(sizes) if name == "wasserstein" else lambda: None
        turns = measure.in_turns((_products(sizes), iterations, block_peer.run, step_peer.run), sizes.seconds)
        medians = [statistics.median(times) for times in zip(*turns, strict=True)]
        of_block = [block / (products + iterations) for products, iterations, block, _ in turns]
        of_step = [step / (step - block + products + iterations) for products, iterations, block, step in turns]
        table.rows.append(
            (
                *(name, tables.seconds(medians[0]), tables.seconds(medians[1]) if name == "wasserstein" else NONE),
                tables.seconds(medians[2]),
                *(tables.times(statistics.median(of_block)), tables.at_least(BLOCK_TARGETS[name])),
                *(tables.seconds(medians[3]), tables.times(statistics.median(of_step))),
                tables.at_least(targets[name]),
            )
        )
    return table


def _products(sizes: Sizes) -> Callable[[], Any]:
    x, y = (jnp.ones((sizes.block_clips * length, sizes.width)) for length in sizes.lengths)
    product = measure.product(x, y)
    return lambda: [product() for _ in range(3)]


def _iterations(sizes: Sizes) -> Callable[[], Any]:
    """Of all pairs: the products of Sinkhorn's iterations and the divisions between them."""
    n, m = sizes.lengths

    def iterate(kernel, u):
        def update(u, _):
            v = 1 / jnp.einsum("pnm,pn->pm", kernel, u, precision="highest")
            return 1 / jnp.einsum("pnm,pm->pn", kernel, v, precision="highest"), None

        return jax.lax.scan(update, u, length=config("wasserstein", 2, sizes).distance.num_iterations)[0]

    given = jnp.ones((CACHED_PAIRS, n, m + -m % 8)), jnp.ones((CACHED_PAIRS, n))
    run = jax.jit(iterate).lower(*given).compile()
    rounds = sizes.block_clips**2 // CACHED_PAIRS
    return lambda: [jax.block_until_ready(run(*given)) for _ in range(rounds)]


def ours(name: str, clips: int, sizes: Sizes) -> Contender:
    """train.py's step; each run is the next one."""
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    found = config(name, clips, sizes)
    lengths = {side: plan.Lengths(n, False) for side, n in zip(("visual", "audio"), sizes.lengths, strict=True)}
    programs = plan.Programs(found, lengths, mesh, plan.target(None).backend)
    step = programs.step(clips).compile()
    state = parallel.replicate(jax.jit(lambda: training.init(programs.config))(), mesh)
    masks = {f"{side}_mask": None for side in lengths}
    batch = parallel.spread(features(clips, sizes) | masks, mesh)

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        return Result(np.asarray(jax.block_until_ready(metrics["loss"]))[None])

    return Contender("ours", run)


def theirs(name: str, clips: int, sizes: Sizes, winner: str, *, compiled: bool) -> Contender:
    """winner: see `_part`."""
    import torch

    from scav_jax.parity import convert, theirs, twin, twin_distances

    found = configs.FrozenConfigDict(config(name, clips, sizes))
    part, rows = _part(name, found, winner)

    class Fast(twin.Twin):
        def distances(self, name, sequences, batch):
            x, y = (sequences[side] for side in found.pairs[0])
            section = found.distance
            if section.unit_norm and name != "cosine":
                x, y = twin_distances.unit(x), twin_distances.unit(y)
            if name == "wasserstein":
                x, y = (
                    twin_distances.with_position(v, torch.full((len(v),), v.shape[1]), section.position_weight)
                    for v in (x, y)
                )
            values = torch.cat([part.distances(x[i : i + rows], y) for i in range(0, len(x), rows)])
            return values / (x.shape[1] + y.shape[1]) if name == "dtw" and section.normalize else values

    state = convert.to_torch(jax.device_get(jax.jit(lambda: training.init(found))().parameters))
    model = theirs.load(Fast, found, state, torch.float32).train()
    batch = {key: torch.tensor(array) for key, array in features(clips, sizes).items()}
    optimizer = twin.Optimizer(model, name)
    encode: Callable = model

    def gradient():
        loss = model.loss(name, model.distances(name, encode(batch), batch))
        loss.backward()
        return loss

    if compiled:
        gradient()  # the tables of positions are made once
        encode = torch.compile(model)
        gradient()
        optimizer.adamw.zero_grad()

    def run():
        loss = gradient()
        optimizer.step()
        return Result(loss.detach().numpy()[None])

    how = "torch.compile" if compiled else "eager"
    return Contender(f"{how}, {part.name}", run, tolerance=part.tolerance, note=part.note)


def _part(name, found, winner):
    """The public part whose contender has this name, and its rows; the first one where none has."""
    every = [(part, rows) for part in parts(name, found) for rows in part.rows]
    won = [(part, rows) for part, rows in every if winner.startswith(f"{part.name}, {rows} x ")]
    return (won or every)[0]


def steps_table(sizes: Sizes, blocks: Mapping[str, Comparison]) -> tuple[Table, dict[str, Comparison]]:
    """And what was found of each distance at the blocks' batch size."""
    table = Table(
        "The whole step",
        (
            *("distance", "clips", "ours, steps/s", "PyTorch, steps/s", "by", "ratio", "target", "met", "losses apart"),
            *("peak memory, ours", "eager", "compiled"),
        ),
        f"Towers of {sizes.layers} + {sizes.layers} blocks, width {sizes.width}, {sizes.lengths[0]} frames and "
        f"{sizes.lengths[1]} steps, float32, AdamW. PyTorch: the faster of eager and torch.compile. Peak memory: of a "
        "process that takes three steps, libraries included, for the rows with a target.",
    )
    found_of = {}
    for name, clips, target in tqdm(sizes.clips, desc="steps"):
        block = blocks.get(name)
        own, winner = ours(name, clips, sizes), block.peer.name if block and block.peer else ""
        hows = (False, True) if sizes.targets else (False,)
        settings = [partial(theirs, name, clips, sizes, winner, compiled=compiled) for compiled in hows]
        result = measure.compare(own, settings, sizes.seconds)
        if clips == sizes.block_clips:
            found_of[name] = result
        peer = result.peer
        peaks = [tables.size(_peak(who, name, clips, winner)) if target else NONE for who in CONTENDERS]
        table.rows.append(
            (
                *(name, str(clips), f"{1 / result.ours_s:.3g}", NONE if peer is None else f"{1 / result.peer_s:.3g}"),
                *(result.note if peer is None else peer.name, tables.times(result.ratio)),
                *(tables.at_least(target), tables.met(result.ratio, target), tables.relative(result.value_difference)),
                *peaks,
            )
        )
        if result.note:
            table.notes.append(f"{name}, {clips} clips: {result.note}")
        tqdm.write(" | ".join(table.rows[-1]), file=sys.stderr)
    return table, found_of


def _peak(who: str, name: str, clips: int, winner: str) -> float:
    flags = f"--alone={who}", f"--distance={name}", f"--clips={clips}", f"--fastest={winner}"
    return json.loads(process.run("train_step", *flags))["peak"]


def alone(who: str, name: str, clips: int, sizes: Sizes, winner: str) -> dict[str, float]:
    made = ours(name, clips, sizes) if who == "ours" else theirs(name, clips, sizes, winner, compiled=who == "compiled")
    took = [measure.timed(made.run) for _ in range(3)]
    return {"seconds": took[-1], "peak": process.peak_bytes()}


def main() -> None:
    parser = page.parser(__doc__, quick="tiny shapes, to stdout only")
    parser.add_argument("--alone", choices=CONTENDERS)
    parser.add_argument("--distance", choices=("cosine", "euclidean", "dtw", "wasserstein"), default="euclidean")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--fastest", default="", help="of --alone: the part that PyTorch's distances are made of")
    chosen = parser.parse_args()
    sizes = QUICK if chosen.quick else Sizes()
    if chosen.alone:
        print(json.dumps(alone(chosen.alone, chosen.distance, chosen.clips, sizes, chosen.fastest)))
        return
    blocks, blocks_found = block_table(sizes)
    steps, steps_found = steps_table(sizes, blocks_found)
    found, about = [blocks, steps, bounds_table(sizes, blocks_found, steps_found)], f", {torch_parts.version('torch')}"
    text = page.page("train_step", "A training step beside PyTorch", found, about=about)
    page.write("train_step", text, keep=not chosen.quick)


if __name__ == "__main__":
    main()
