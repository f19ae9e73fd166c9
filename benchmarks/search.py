"""Exact search beside brute force: the same clips, how many distances that took, and how long.

python -m benchmarks.search     writes benchmarks/results/search.md; wants runs/demo (make demo); about an hour
python -m benchmarks.search --only="own melodies,ragged"     some sections, in the file too
python -m benchmarks.search --only="own melodies" --distance=wasserstein     of the searches one distance's rows
python -m benchmarks.search --quick     300 clips, to stdout only
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import page, process, tables
from benchmarks.measure import with_time
from benchmarks.tables import Table
from data.marimba import score, unfiled
from scav_jax import distances, parallel, trained, training
from scav_jax.retrieval import index
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.search import Searcher

RESULTS = page.RESULTS / "search.md"
RUN, KEPT = Path("runs/demo/euclidean-seed0"), Path("runs/search")
TOP, BATCH = 10, 50
ROUNDING = 1e-4  # relative, between the one-product and the pairwise form of a distance
WASSERSTEIN = {"unit_norm": True, "epsilon": 0.1, "num_iterations": 30, "position_weight": 4.0}  # configs/marimba.py
GAMMAS = (0.0, 0.1, 1.0)


class Gallery(NamedTuple):
    x: Clips
    y: Clips

    def ragged(self) -> "Gallery":
        """Every clip cut to 50 to 100 % of its time, both sides alike."""
        share = np.random.default_rng(0).uniform(0.5, 1, (len(self.x), 1))

        def cut(side: Clips) -> Clips:
            length = side.sequences.shape[1]
            return Clips(side.sequences, np.arange(length) < np.maximum(1, np.round(share * length)))

        return Gallery(cut(self.x), cut(self.y))


class Case(NamedTuple):
    name: str
    options: dict[str, Any]
    queries: int
    fewer: float | None = None  # targets on the demo's own gallery
    faster: float | None = None

    def label(self) -> str:
        shown = {key: value for key, value in self.options.items() if key in ("gamma", "debiased")}
        return ", ".join([self.name, *(f"{key} {value:g}" if key == "gamma" else key for key, value in shown.items())])


def cases(quick: bool) -> list[Case]:
    few, many = (20, 20) if quick else (50, 200)
    dtw = [
        Case("dtw", {"unit_norm": True, "gamma": gamma, **debiased}, few)
        for gamma in GAMMAS
        for debiased in ({}, {"debiased": True})
    ]
    return [
        Case("euclidean", {"unit_norm": True}, many, 10),
        Case("wasserstein", WASSERSTEIN, many, 10, 3),
        Case("wasserstein", {**WASSERSTEIN, "debiased": True}, many),
        *dtw,
    ]


SEARCHED = (
    *("distance", "direction", "queries", "distances of a query, median", "worst", "fewer", "target", "met"),
    *("exact, a query", "brute force", "ratio", "target", "met", "same clips", "apart", "certificates"),
)


def searched(case: Case, gallery: Gallery, direction: str, targets: bool) -> tuple[str, ...]:
    """A row: exact search of the whole gallery beside brute force, checked against it."""
    sides = gallery if direction == "v2a" else gallery[::-1]
    queries, others = sides[0][: case.queries], sides[1]
    queries_are = "x" if direction == "v2a" else "y"
    finder = Searcher(case.name, others, queries_are=queries_are, batch_size=BATCH, **case.options)
    modes = ("exact", "sequence")
    for mode in modes:
        finder.search(queries[:BATCH], TOP, mode=mode)
    (exact, exact_s), (brute, brute_s) = (with_time(partial(finder.search, queries, TOP, mode=mode)) for mode in modes)
    same, apart = agreement(exact, brute)
    every = finder.search(queries[:BATCH], min(len(others), 4000), mode="sequence")
    slack = ROUNDING * np.abs(every.distances).max()
    below = (every.distances < exact.bound[: len(every.bound), None] - slack).sum(axis=1)
    valid = bool((below <= exact.computed[: len(below)]).all() and exact.certified.all())
    median, fewer, ratio = np.median(exact.computed), len(others) / np.median(exact.computed), brute_s / exact_s
    wanted = (case.fewer, case.faster) if targets else (None, None)
    return (
        *(case.label(), direction, str(case.queries), f"{median:.0f}", str(exact.computed.max()), tables.times(fewer)),
        *(tables.at_least(wanted[0]), tables.met(fewer, wanted[0])),
        *(tables.seconds(exact_s / case.queries), tables.seconds(brute_s / case.queries), tables.times(ratio)),
        *(tables.at_least(wanted[1]), tables.met(ratio, wanted[1])),
        *(f"{same} of {case.queries}", tables.relative(apart), "valid" if valid else "BROKEN"),
    )


def agreement(exact, brute) -> tuple[int, float]:
    """Queries with the same ids, but for clips whose distances differ by rounding; the largest relative difference."""
    scale = np.maximum(np.abs(brute.distances), 1e-3)
    apart = np.abs(exact.distances - brute.distances) / scale
    near = ROUNDING * scale
    same = 0
    for row in range(len(brute.indices)):
        different = exact.indices[row] != brute.indices[row]
        # An exchange within rounding: the k-th distances are equal to it, so neither is nearer.
        same += bool((apart[row][different] * scale[row][different] <= near[row][different]).all())
    return same, float(apart.max())


def demo_gallery(name: str, count: int) -> Gallery:
    """Clips of the demo's world, encoded by its SCAV-Euclidean model: rendered once, kept in runs/search."""
    kept = KEPT / f"{name}-{count}"
    if not (kept / "index.json").exists():
        if name == "random":
            rng = np.random.default_rng(0)
            visual, audio = (rng.normal(size=(count, *shape)).astype(np.float32) for shape in ((20, 192), (32, 64)))
        else:
            visual, audio = unfiled.features(score.gallery(1, count, one_multiset=name == "one multiset"), 1)
        index.build(kept, *encode(visual, audio), [f"{name}-{row}" for row in range(count)])
    found = index.load(kept)
    return Gallery(*(Clips(np.array(side.sequences)) for side in (found.x, found.y)))


def encode(visual: np.ndarray, audio: np.ndarray) -> tuple[Clips, Clips]:
    if not (RUN / "config.json").exists():
        subprocess.run([sys.executable, "demo.py"], check=True)
    model = trained.load(RUN, parallel.make_mesh())
    run = jax.jit(lambda batch: training.encode(model.config, model.towers, batch))
    parts = []
    for first in tqdm(range(0, len(visual), 500), desc="encode"):
        batch = {"visual": visual[first : first + 500], "audio": audio[first : first + 500]}
        encoded = run({**batch, "visual_mask": None, "audio_mask": None})
        parts.append([np.asarray(encoded[side][0]) for side in ("visual", "audio")])
    x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    return Clips(x), Clips(y)


GALLERIES = {
    "own melodies": ("own", 20_000, "clips of the demo's world, each a melody and a rhythm of its own"),
    "ragged": ("own", 20_000, "the same, each cut to 50 to 100 % of its time"),
    "one multiset": (
        *("one multiset", 5_000),
        "clips that share one multiset of notes and one rhythm in random order, so that means say nothing",
    ),
    "random features": ("random", 5_000, "normal random numbers for features: nothing to find"),
}


def search_table(title: str, quick: bool, distance: str = "") -> Table:
    name, size, what = GALLERIES[title]
    size = 300 if quick else size
    gallery = demo_gallery(name, size)
    gallery = gallery.ragged() if title == "ragged" else gallery
    table = Table(
        f"Exact search, {title}",
        SEARCHED,
        f"{size:,} {what}, encoded by {RUN} (20 x 64 and 32 x 64); the {TOP} nearest of the first clips, {BATCH} "
        "queries at a time. Fewer: gallery over median. Ratio: brute force over exact, one run of each after a "
        "first batch. Same clips: the ids of brute force, but for exchanges within rounding. Certificates: no more "
        f"clips below the bound than were computed, by brute force ({BATCH} queries).",
    )
    targets = title == "own melodies"
    planned = [case for case in (cases if targets else short_cases)(quick) if distance in ("", case.name)]
    for case in tqdm(planned, desc=title, unit="case"):
        table.rows += [searched(case, gallery, direction, targets) for direction in ("v2a", "a2v")]
    return table


def short_cases(quick: bool) -> list[Case]:
    few = 20 if quick else 50
    return [
        Case("euclidean", {"unit_norm": True}, few),
        Case("wasserstein", WASSERSTEIN, few),
        Case("dtw", {"unit_norm": True, "gamma": 0.1}, few),
        Case("dtw", {"unit_norm": True, "gamma": 0.1, "debiased": True}, few),
    ]


def sizes_table(quick: bool) -> Table:
    """From which size of gallery exact Euclidean search is faster than its one matrix product."""
    table = Table(
        "Euclidean: size of the gallery",
        ("clips", "exact, a query", "brute force", "ratio", "distances of a query, median"),
        f"Own melodies, 16 x 768 as wide as real towers are and 20 x 64 as the demo's; 200 queries, {BATCH} at a time.",
    )
    demo = demo_gallery("own", 300 if quick else 20_000)
    wide = walks(300 if quick else 20_000, 16, 768)
    for label, gallery in (("20 x 64", demo), ("16 x 768", wide)):
        for size in (100, 300) if quick else (1_000, 5_000, 20_000):
            finder = Searcher("euclidean", gallery.y[:size], batch_size=BATCH, unit_norm=True)
            queries = gallery.x[: min(200, size)]
            for mode in ("exact", "sequence"):
                finder.search(queries[:BATCH], TOP, mode=mode)
            runs = [with_time(partial(finder.search, queries, TOP, mode=mode)) for mode in ("exact", "sequence")]
            (exact, exact_s), (_, brute_s) = runs
            table.rows.append(
                (
                    f"{size:,} of {label}",
                    *(tables.seconds(s / len(queries)) for s in (exact_s, brute_s)),
                    tables.times(brute_s / exact_s),
                    f"{np.median(exact.computed):.0f}",
                )
            )
    return table


def walks(count: int, length: int, width: int, directions: int = 12) -> Gallery:
    """Smooth random walks along a few directions, and noisy copies: sequences with structure, of any size."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(directions, width)).astype(np.float32)
    path = np.cumsum(rng.normal(size=(count, length, directions)).astype(np.float32), axis=1)
    x = path @ basis
    return Gallery(Clips(x), Clips(x + rng.normal(0, 1, x.shape).astype(np.float32)))


def evaluation_table(quick: bool) -> Table:
    """A whole evaluation's matrix, beside the loop over pairs that evaluations in the field run."""
    count, pairs = (100, 50) if quick else (1_520, 2_000)
    gallery = walks(count, 16, 768)
    x, y = (jnp.asarray(side.sequences) for side in gallery)
    table = Table(
        "A whole evaluation",
        ("distance", "pairs", "ours", "at most", "met", "loop over pairs", "ratio", "target", "met"),
        f"{count:,} x {count:,} clips of 16 frames x 768, float32, after compilation: all distances and ranks of both "
        f"directions. Loop: one compiled distance a pair called from Python, {pairs:,} pairs timed in the same run and "
        "scaled up.",
    )
    from scav_jax.metrics import ranks

    for name, limit in (("euclidean", 2.0), ("wasserstein", None), ("dtw", None)):
        options = {"euclidean": {}, "wasserstein": WASSERSTEIN, "dtw": {"gamma": 0.1}}[name] | {"unit_norm": True}
        run = jax.jit(lambda x, y, name=name, options=options: distances.pairwise(name, x, y, **options))

        def evaluate(run=run):
            matrix = np.asarray(run(x, y))
            return ranks(matrix), ranks(matrix.T)

        one = jax.jit(lambda x, y, name=name, options=options: distances.pairwise(name, x[None], y[None], **options))
        evaluate(), one(x[0], y[0])
        ours = min(with_time(evaluate)[1] for _ in range(3))

        def evaluate_one_by_one(one=one):
            return [float(one(x[i % count], y[i // count])[0, 0]) for i in range(pairs)]

        loop = with_time(evaluate_one_by_one)[1] * count**2 / pairs
        verdict = tables.within(ours, limit)
        asked = 100 if limit else None
        table.rows.append(
            (
                *(name, f"{count**2:,}", tables.seconds(ours), f"{limit:g} s" if limit else tables.NONE, verdict),
                *(tables.seconds(loop), tables.times(loop / ours), tables.at_least(asked)),
                tables.met(loop / ours, asked),
            )
        )
    return table


def index_table(quick: bool) -> Table:
    """In a process of its own, whose memory is its own."""
    table = Table(
        "An index on disk",
        ("what", "time", "peak memory", "of it not in mapped files"),
        f"{'1,000' if quick else '100,000'} clips of 16 x 64 both sides; 200 queries for the {TOP} nearest.",
    )
    lines = process.run("index", *["--quick"] * quick).splitlines()
    table.rows += [tuple(line.split("\t")) for line in lines if "\t" in line]
    return table


SECTIONS: dict[str, Callable[..., Table]] = {
    "evaluation": evaluation_table,
    "sizes": sizes_table,
    "index": index_table,
    **{title: partial(search_table, title) for title in GALLERIES},
}


def main() -> None:
    parser = page.parser(__doc__, quick="small sizes, to stdout only")
    parser.add_argument("--only", help=f"sections, by commas, of {', '.join(SECTIONS)}")
    parser.add_argument("--distance", default="", help="of the sections of searches, with --only: its rows alone")
    chosen = parser.parse_args()
    if chosen.distance and not chosen.only:
        parser.error("--distance: expected together with --only, or the file would lose all other rows")
    names = chosen.only.split(",") if chosen.only else list(SECTIONS)
    if unknown := sorted({*names} - {*SECTIONS}):
        parser.error(f"--only: expected some of {', '.join(SECTIONS)}, got {unknown[0]}")
    sections = written() if chosen.only else {}
    for name in names:
        options = {"distance": chosen.distance} if name in GALLERIES else {}
        table = SECTIONS[name](chosen.quick, **options)
        new = table.markdown()
        sections[table.title] = merged(sections.get(table.title, new), new) if chosen.distance else new
        print(new)
    if not chosen.quick:
        RESULTS.write_text(page.page("search", "Search", list(sections.values())))


def merged(old: str, new: str) -> str:
    """The old section with the rows of the new one in place of those of the same case."""

    def case(line):
        return tuple(cell.strip() for cell in line.split("|")[1:4])

    fresh = {case(line): line for line in new.splitlines() if line.startswith("|")}
    return "\n".join(fresh.get(case(line), line) for line in old.splitlines()) + "\n"


def written() -> dict[str, str]:
    """Title -> section of the file that is there."""
    parts = RESULTS.read_text().split("\n## ")[1:] if RESULTS.exists() else []
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in parts}


if __name__ == "__main__":
    main()
