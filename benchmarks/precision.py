"""What bfloat16 does to retrieval with trained runs of the demo: distances by bfloat16 products, bfloat16 encodings.

python -m benchmarks.precision     writes benchmarks/results/precision.md; needs the runs of `make demo`
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import page
from benchmarks.settings import METHODS
from scav_jax import config as configs
from scav_jax import distances, evaluation, galleries, parallel, protocol, trained
from scav_jax.features.store import open_store
from scav_jax.metrics import bootstrap_interval, ranks
from scav_jax.results import DISTANCE_NAMES

SEED = 0
NEAREST = 10
# What is compared with float32 throughout: (name, dtype of the encodings, precision of the products).
VARIANTS = (("products", jnp.float32, "bfloat16"), ("encodings", jnp.bfloat16, "float32"))


class Comparison(NamedTuple):
    """One gallery ranked by float32 distances and again by others; shares in percent of the queries."""

    before: float  # R@1 in percent by float32
    after: float
    low: float  # 95 % interval of after - before, in points, paired by query, over groups
    high: float
    largest_change: float  # max |other - float32| / |float32|
    first_changed: float  # another clip comes first
    overlap: float  # of the NEAREST by float32, those that stay among them
    same_order: float  # the same NEAREST in the same order


def compare(exact: np.ndarray, other: np.ndarray, groups: np.ndarray) -> Comparison:
    """Of (Q, Q) distances, the right clip of query i in column i; groups (Q,) label related queries."""
    hits = [100.0 * (ranks(matrix) == 1) for matrix in (exact, other)]
    change = np.abs(other.astype(np.float64) - exact)
    relative = np.divide(change, np.abs(exact), out=np.where(change > 0, np.inf, 0.0), where=exact != 0)
    nearest, others = (np.argsort(matrix, axis=1, kind="stable")[:, :NEAREST] for matrix in (exact, other))
    low, high = bootstrap_interval((hits[1] - hits[0])[None], groups)
    return Comparison(
        before=float(hits[0].mean()),
        after=float(hits[1].mean()),
        low=low,
        high=high,
        largest_change=float(relative.max()),
        first_changed=100 * float(np.mean(nearest[:, 0] != others[:, 0])),
        overlap=100 * float(np.mean((nearest[:, :, None] == others[:, None, :]).any(axis=2))),
        same_order=100 * float(np.mean((nearest == others).all(axis=1))),
    )


def compare_run(workdir: Path) -> tuple[dict[str, Any], dict[tuple[str, str], Comparison]]:
    """The protocol of a run's test split, and (direction, variant) -> Comparison by the distance trained with."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    run = trained.load(workdir, mesh)
    config = run.config
    store, split = open_store(config.data.store), config.data.test_split
    evaluation.check_store(config, store)
    facts = store.facts(split)
    _, gallery = galleries.choose("full", facts)
    encoder = evaluation.make_encoder(config, mesh)
    encoded = evaluation.encode_split(config, encoder, mesh, run.parameters, store, split)
    exact = all_pairs(config, encoded, jnp.float32, "float32")
    found = {}
    for variant, dtype, precision in VARIANTS:
        other = all_pairs(config, encoded, dtype, precision)
        found["v2a", variant] = compare(exact, other, facts.families)
        found["a2v", variant] = compare(exact.T, other.T, facts.families)
    return protocol.card(
        config, store, split, run.step, facts=facts, gallery=gallery, weights=run.weights_sha256
    ), found


def all_pairs(config: Any, encoded: dict[str, tuple], dtype: Any, precision: str) -> np.ndarray:
    name = configs.trained_with(config)
    options = distances.options(name, config.distance) | {"precision": precision}
    (x, x_mask), (y, y_mask) = (jax.tree.map(jnp.asarray, encoded[modality]) for modality in config.pairs[0])
    return np.asarray(distances.pairwise(name, x.astype(dtype), y.astype(dtype), x_mask, y_mask, **options))


def lines(card: dict[str, Any], found: dict[str, dict[tuple[str, str], Comparison]]) -> Iterator[str]:
    """The result file."""
    yield "What bfloat16 changes in retrieval, beside float32 throughout. Command: `python -m benchmarks.precision`."
    yield ""
    yield (
        f"Runs of `make demo`, seed {SEED}, step {card['step']}, each ranking by the distance it was trained with: "
        f"all {card['gallery_size']} clips of split {card['split']} of {card['dataset']} "
        f"(ids {card['ids_sha256'][:12]}), on {jax.devices()[0].device_kind}, jax {jax.__version__}. "
        f"{card['tie_rule'].capitalize()}."
    )
    yield ""
    yield "- products: `distance.precision=bfloat16`, the inputs of the distances' matrix products rounded to it"
    yield "- encodings: what the towers put out rounded to bfloat16, then `distance.precision=float32`"
    yield f"- difference of R@1 in points: {card['interval_rule']}, paired by query; (=): it holds 0"
    yield "- largest change: of any distance, relative to its float32 value"
    yield "- other first: queries for which another clip comes first"
    yield f"- kept of {NEAREST}: of a query's {NEAREST} nearest by float32, those that stay among the {NEAREST}"
    yield f"- same {NEAREST}: queries whose {NEAREST} nearest stay, in their order"
    yield ""
    columns = ["trained with", "direction", "in bfloat16", "R@1 float32", "R@1", "difference [95 %]", "largest change"]
    columns += ["other first", f"kept of {NEAREST}", f"same {NEAREST}"]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name, comparisons in found.items():
        for (direction, variant), row in comparisons.items():
            equal = " (=)" if row.low <= 0 <= row.high else ""
            cells = [name, direction, variant, f"{row.before:.1f} %", f"{row.after:.1f} %"]
            cells += [f"{row.after - row.before:+.1f} [{row.low:+.1f}, {row.high:+.1f}]{equal}"]
            cells += [f"{row.largest_change:.1e}", f"{row.first_changed:.1f} %"]
            cells += [f"{row.overlap:.1f} %", f"{row.same_order:.1f} %"]
            yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = page.parser(__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of runs (default: %(default)s)")
    options = parser.parse_args()
    runs = {method: options.demo / f"{method}-seed{SEED}" for method in METHODS}
    for run in runs.values():
        if not (run / "eval" / "metrics.json").is_file():  # written last
            raise SystemExit(f"error: {run}: expected a trained and evaluated run of the demo; `make demo` makes it")
    cards, found = [], {}
    for method, run in (bar := tqdm(runs.items(), unit="run")):
        bar.set_postfix_str(method)
        try:
            card, comparisons = compare_run(run)
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: {run}: {error}") from error
        label = "CAV" if method == "cav" else f"SCAV {DISTANCE_NAMES[method]}"
        found[label] = comparisons
        cards.append(card)
    if len({(card["step"], card["ids_sha256"]) for card in cards}) > 1:
        raise SystemExit(
            f"error: {options.demo}: expected runs of one number of steps on one store; `make demo` makes them"
        )
    page.write("precision", "\n".join(lines(cards[0], found)) + "\n")


if __name__ == "__main__":
    main()
