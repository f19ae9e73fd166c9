"""Retrieval with a trained run: RUN/eval/metrics.json, a table, and RUN/eval/report.html.

python eval.py --workdir=runs/marimba [--split=test --compare=runs/other,...]
python eval.py --workdir=runs/marimba --modes=sequence,hybrid,exact --distances=euclidean,dtw --k=10,50
python eval.py --workdir=runs/marimba --gallery=5-per-class --frontier --probe=permute:1,shift:0.2

On several hosts every one starts the same command.
"""

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from scav_jax import all_pairs, cli, evaluation, files, frontier, galleries, parallel, processes, protocol, trained
from scav_jax import config as configs
from scav_jax.diagnosis import EVALUATION_REMEDY, sequence_behind
from scav_jax.distances import DISTANCES
from scav_jax.features.staging import open_staged
from scav_jax.metrics import bootstrap_interval, ranks
from scav_jax.probes import PROBES, Probe
from scav_jax.retrieval import order_free

RANKED_BY = (*(name for name in DISTANCES if name != "cosine"), *order_free.NAMES)

SPLIT = flags.DEFINE_string("split", None, "Split to search in (default: the config's data.test_split).")
STORE = flags.DEFINE_string("store", None, "Store to search in (default: the config's data.store).")
GALLERY = flags.DEFINE_string("gallery", "full", f"Clips to search, and to search for: {galleries.RULES}.")
MODES = flags.DEFINE_list("modes", list(evaluation.MODES[:3]), f"Of {', '.join(evaluation.MODES)}.")
DISTANCE_NAMES = flags.DEFINE_list(
    "distances", None, f"Of {', '.join(RANKED_BY)}; the last two know no order (default: the config's own)."
)
DIRECTIONS = flags.DEFINE_list("directions", list(all_pairs.DIRECTIONS), "Of v2a, a2v.")
HYBRID_K = flags.DEFINE_list(
    "k", None, "Candidates that hybrid retrieval re-ranks (default: the config's eval.hybrid_k)."
)
FRONTIER = flags.DEFINE_bool(
    "frontier",
    False,
    f"Also time search in every mode, hybrid at each --k (default: {', '.join(map(str, frontier.SWEEP))}).",
)
PROBE = flags.DEFINE_list("probe", [], f"Also disturb the queries: {'|'.join(PROBES)}:STRENGTH, 0 < STRENGTH <= 1.")
PROBE_SUBSETS = flags.DEFINE_list("probe_subsets", [], "Subsets whose queries --probe disturbs (default: all).")
COMPARE = flags.DEFINE_list("compare", [], "Folders of other evaluated runs to show beside this one in the report.")
REPORT = flags.DEFINE_bool("report", True, "Write RUN/eval/report.html.")
flags.register_validator(
    HYBRID_K,
    lambda counts: counts is None or all(count.isdigit() and int(count) for count in counts),
    message="expected whole numbers above 0, separated by commas",
)
for flag, known in ((MODES, evaluation.MODES), (DISTANCE_NAMES, RANKED_BY), (DIRECTIONS, all_pairs.DIRECTIONS)):
    flags.register_validator(
        flag,
        lambda names, known=known: names is None or (names and set(names) <= set(known)),
        message=f"expected some of {', '.join(known)}, separated by commas",
    )

QUERIES_SHOWN = 10
RETRIEVED_SHOWN = 5
ALIGNED = 2


@dataclass(frozen=True)
class What:
    """What to evaluate beside the run itself; None: as the run's config says."""

    split: str | None = None
    store_dir: str | None = None
    gallery: str = "full"
    asked: evaluation.Asked = field(default_factory=evaluation.Asked)
    frontier: bool = False
    probes: Sequence[Probe] = ()
    probe_subsets: Sequence[str] = ()
    compared: dict[str, dict[str, Any]] = field(default_factory=dict)  # protocols of other runs


def evaluate(workdir: files.AnyPath, what: What) -> list[dict]:
    """Ranks every subset's gallery in every mode and direction; writes RUN/eval and returns the rows of results."""
    mesh = parallel.make_mesh()
    run = trained.load(workdir, mesh)
    config = run.config
    split = what.split or config.data.test_split
    store = open_staged(
        what.store_dir or config.data.store, config.data.get("stage", ""), {split: [range(sys.maxsize)]}
    )
    evaluation.check_store(config, store)
    known = protocol.subsets(store.facts(split))
    if unknown := set(what.probe_subsets) - set(known):
        raise configs.ConfigError(f"--probe_subsets={unknown.pop()}: expected some of {', '.join(known)}")
    members, gallery = galleries.choose(what.gallery, store.facts(split))
    facts = store.facts(split)[members]
    card = protocol.card(config, store, split, run.step, facts=facts, gallery=gallery, weights=run.weights_sha256)
    protocol.check_comparable({workdir.name: card, **what.compared})

    encoder = evaluation.make_encoder(config, mesh)

    def encode(**change):
        return evaluation.encode_split(
            config, encoder, mesh, {"towers": run.towers}, store, split, members=members, **change
        )

    encoded = encode()
    pairs = all_pairs.AllPairs(config, mesh, encoded)
    asked = replace(what.asked, hybrid_k=what.asked.hybrid_k or config.eval.hybrid_k)
    rankings = list(evaluation.rank(pairs, facts, asked))
    results = [evaluation.score(ranking, facts) for ranking in rankings]
    found: dict[str, Any] = {"protocol": card, "results": results}
    if what.frontier:
        found["frontier"] = frontier.frontier(pairs, facts, what.asked)
    if what.probes:
        probed = replace(asked, modes=("aggregate", "sequence"), subsets=what.probe_subsets)
        clean = list(evaluation.rank(pairs, facts, probed))
        clips = np.unique(np.concatenate([*probed.galleries(facts).values()]))
        found["probes"] = []
        for probe in tqdm(what.probes, unit="probe"):
            disturbed = all_pairs.AllPairs(config, mesh, encoded, encode(change=probe), clips)
            found["probes"] += probe_rows(probe, clean, evaluation.rank(disturbed, facts, probed), facts)
    if not processes.is_first():
        return results
    if line := sequence_behind(evaluation.sequence_gain(config, rankings, facts)):
        print(line)

    folder = workdir / "eval"
    # Gone first and back last, whole: the file says that all of the folder belongs together.
    (folder / "metrics.json").unlink(missing_ok=True)
    write_ranks(folder / "ranks.npz", rankings, facts)
    shown = {"media": store.ledger["media"], "queries": shown_queries(config, encoded, rankings, facts)}
    files.write_whole(folder / "retrieved.json", json.dumps(shown, indent=1))
    files.write_whole(folder / "metrics.json", json.dumps(found, indent=1))
    return results


def probe_rows(
    probe: Probe, clean: Iterable[evaluation.Ranking], disturbed: Iterable[evaluation.Ranking], facts
) -> Iterator[dict]:
    """R@1 of the disturbed queries, and what it lost against the clean ones, with a paired interval."""
    for before, after in zip(clean, disturbed, strict=True):
        groups = np.where(facts.groups == "", facts.ids, facts.groups)[after.members]
        clean_hits, hits = (100.0 * (ranks(one.distances) == 1) for one in (before, after))
        low, high = bootstrap_interval((clean_hits - hits)[None], groups)
        lost = float((clean_hits - hits).mean())
        found = {"R@1": float(hits.mean()), "lost": lost, "lost_low": min(low, lost), "lost_high": max(high, lost)}
        yield {"probe": probe.name, "strength": probe.strength, **after.key(), **found}


def write_ranks(path: files.AnyPath, rankings: list[evaluation.Ranking], facts) -> None:
    """Every query's rank, for intervals over seeds and paired comparisons: one array a ranking, named by its key."""
    arrays: dict[str, Any] = {"ids": facts.ids, "groups": facts.groups, "subsets": facts.subsets}
    arrays |= {json.dumps(ranking.key()): ranks(ranking.distances) for ranking in rankings}
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write_whole(path, content.getvalue())


def shown_queries(config, encoded, rankings: list[evaluation.Ranking], facts) -> list[dict]:
    """What was retrieved for a few queries, the same ones for every run: of the `order` subset, if there is one."""
    named = {ranking.subset for ranking in rankings}
    subset = "order" if "order" in named else protocol.ALL
    queries = []
    for ranking in rankings:
        if ranking.subset != subset or ranking.direction != "v2a" or ranking.mode not in ("aggregate", "sequence"):
            continue
        found = ranks(ranking.distances)
        for query in galleries.evenly_spread(len(found), QUERIES_SHOWN):
            nearest = np.argsort(ranking.distances[query], kind="stable")[:RETRIEVED_SHOWN]
            aligned = ranking.members[list(dict.fromkeys([*nearest[:ALIGNED].tolist(), int(query)]))]
            queries.append(
                {
                    "id": str(facts.ids[ranking.members[query]]),
                    "subset": subset,
                    "direction": ranking.direction,
                    "mode": ranking.mode,
                    "distance": ranking.distance,
                    "rank": int(found[query]),
                    "retrieved": [str(clip) for clip in facts.ids[ranking.members[nearest]]],
                    "aligned": [str(clip) for clip in facts.ids[aligned]],
                    "alignments": evaluation.alignments(
                        config, encoded, ranking.distance, int(ranking.members[query]), aligned
                    ),
                }
            )
    return queries


def main() -> None:
    if cli.WORKDIR.value is None:
        raise configs.ConfigError("--workdir: expected the folder of a run, got none; see --help")
    from scav_jax import significance
    from scav_jax.report import write_report
    from scav_jax.results import load_run, summary_rows, terminal_table

    workdir, compared = files.at(cli.WORKDIR.value), [files.at(run) for run in COMPARE.value]
    try:
        probes = [Probe.parse(text) for text in PROBE.value]
    except ValueError as error:
        raise configs.ConfigError(f"--probe={error}") from error
    asked = evaluation.Asked(
        modes=tuple(MODES.value),
        distances=tuple(DISTANCE_NAMES.value or ()),
        directions=tuple(DIRECTIONS.value),
        hybrid_k=tuple(int(k) for k in HYBRID_K.value or ()),
    )
    cards = {run.name: load_run(run).protocol for run in compared}  # an unevaluated one is an error now, not after
    what = What(SPLIT.value, STORE.value, GALLERY.value, asked, FRONTIER.value, probes, PROBE_SUBSETS.value, cards)
    processes.start()
    evaluate(workdir, what)
    if not processes.is_first():
        return
    runs = [workdir, *compared]
    print(terminal_table(summary_rows(runs)))
    for other in compared:
        print(f"\n{significance.paired_table(workdir, other)}")
    if REPORT.value:
        write_report(runs, workdir / "eval" / "report.html", title=f"Retrieval with {workdir.name}")
        print(f"report: {files.absolute(workdir / 'eval' / 'report.html')}")


if __name__ == "__main__":
    cli.run(main, EVALUATION_REMEDY)
