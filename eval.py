"""Retrieval with a trained run: RUN/eval/metrics.json, a table, and RUN/eval/report.html.

python eval.py --workdir=runs/marimba [--split=test --k=10,50 --compare=runs/other,...]

On several hosts every one starts the same command.
"""

import io
import json
import sys
from contextlib import closing

import jax
import numpy as np
from absl import flags

from scav_jax import cli, evaluation, files, parallel, processes, training
from scav_jax import config as configs
from scav_jax.checkpoint import Checkpoints
from scav_jax.features.staging import open_staged
from scav_jax.metrics import ranks

SPLIT = flags.DEFINE_string("split", None, "Split to search in (default: the config's data.test_split).")
STORE = flags.DEFINE_string("store", None, "Store to search in (default: the config's data.store).")
HYBRID_K = flags.DEFINE_list(
    "k", None, "Candidates that hybrid retrieval re-ranks (default: the config's eval.hybrid_k)."
)
flags.register_validator(
    HYBRID_K,
    lambda counts: counts is None or all(count.isdigit() and int(count) for count in counts),
    message="expected whole numbers above 0, separated by commas",
)
COMPARE = flags.DEFINE_list("compare", [], "Folders of other evaluated runs to show beside this one in the report.")
REPORT = flags.DEFINE_bool("report", True, "Write RUN/eval/report.html.")

QUERIES_SHOWN = 6
RETRIEVED_SHOWN = 5


def evaluate(
    workdir: files.AnyPath, *, split: str | None = None, store_dir: str | None = None, hybrid_k=None
) -> list[dict]:
    """Ranks every subset's gallery in every mode and direction; writes RUN/eval and returns the rows of results."""
    config_path = workdir / "config.json"
    if not config_path.is_file():
        raise ValueError(f"workdir: expected the folder of a run that train.py began, {config_path} is missing")
    config = configs.load(config_path)
    with closing(Checkpoints(workdir, config.checkpoint.keep, read_only=True)) as checkpoints:
        if checkpoints.latest_step is None:
            raise ValueError(f"{workdir}: expected a checkpoint, found none; has train.py reached its first save?")
        mesh = parallel.make_mesh()
        state, _ = checkpoints.restore(parallel.replicated_shapes(jax.eval_shape(lambda: training.init(config)), mesh))
    split = split or config.data.test_split
    store = open_staged(store_dir or config.data.store, config.data.get("stage", ""), {split: [range(sys.maxsize)]})
    evaluation.check_store(config, store)
    facts = store.facts(split)

    encoder = evaluation.make_encoder(config, mesh)
    encoded = evaluation.encode_split(config, encoder, mesh, state.parameters, store, split)
    rankings = list(evaluation.rank(config, encoded, mesh, facts, hybrid_k or config.eval.hybrid_k))
    results = [evaluation.score(ranking, facts) for ranking in rankings]
    protocol = evaluation.protocol(config, store, split, int(state.step))
    if not processes.is_first():
        return results

    folder = workdir / "eval"
    # Gone first and back last, whole: the file says that all of the folder belongs together.
    (folder / "metrics.json").unlink(missing_ok=True)
    write_ranks(folder / "ranks.npz", rankings, facts)
    shown = {"media": store.ledger["media"], "queries": shown_queries(rankings, facts)}
    files.write_whole(folder / "retrieved.json", json.dumps(shown, indent=1))
    files.write_whole(folder / "metrics.json", json.dumps({"protocol": protocol, "results": results}, indent=1))
    return results


def write_ranks(path: files.AnyPath, rankings: list[evaluation.Ranking], facts) -> None:
    """Every query's rank, for intervals over seeds and paired comparisons: one array a ranking, named by its key."""
    arrays = {json.dumps(ranking.key()): ranks(ranking.distances) for ranking in rankings}
    content = io.BytesIO()
    np.savez(content, ids=facts.ids, groups=facts.groups, subsets=facts.subsets, **arrays)
    files.write_whole(path, content.getvalue())


def shown_queries(rankings: list[evaluation.Ranking], facts) -> list[dict]:
    """What was retrieved for a few queries, the same ones for every run: of the `order` subset, if there is one."""
    named = {ranking.subset for ranking in rankings}
    subset = "order" if "order" in named else evaluation.ALL
    queries = []
    for ranking in rankings:
        if ranking.subset != subset or ranking.direction != "v2a" or ranking.mode == "hybrid":
            continue
        found = ranks(ranking.distances)
        for query in np.linspace(0, len(found) - 1, min(QUERIES_SHOWN, len(found))).round().astype(int):
            nearest = np.argsort(ranking.distances[query], kind="stable")[:RETRIEVED_SHOWN]
            queries.append(
                {
                    "id": str(facts.ids[ranking.members[query]]),
                    "subset": subset,
                    "direction": ranking.direction,
                    "mode": ranking.mode,
                    "distance": ranking.distance,
                    "rank": int(found[query]),
                    "retrieved": [str(clip) for clip in facts.ids[ranking.members[nearest]]],
                }
            )
    return queries


def main() -> None:
    if cli.WORKDIR.value is None:
        raise configs.ConfigError("--workdir: expected the folder of a run, got none; see --help")
    from scav_jax.report import write_report
    from scav_jax.results import summary_rows, terminal_table

    workdir, compared = files.at(cli.WORKDIR.value), [files.at(run) for run in COMPARE.value]
    summary_rows(compared)  # an unevaluated one is an error now, not after the work
    hybrid_k = tuple(int(k) for k in HYBRID_K.value) if HYBRID_K.value else None
    processes.start()
    evaluate(workdir, split=SPLIT.value, store_dir=STORE.value, hybrid_k=hybrid_k)
    if not processes.is_first():
        return
    runs = [workdir, *compared]
    print(terminal_table(summary_rows(runs)))
    if REPORT.value:
        write_report(runs, workdir / "eval" / "report.html", title=f"Retrieval with {workdir.name}")
        print(f"report: {files.absolute(workdir / 'eval' / 'report.html')}")


if __name__ == "__main__":
    cli.run(main)
