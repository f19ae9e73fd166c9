"""Search from the shell: an index of a run's clips, and a video or a sound to search it with.

    python -m scav_jax.retrieval --index=runs/index --workdir=runs/marimba [--split=test]     makes it, or appends to it
    python -m scav_jax.retrieval --index=runs/index --query=clip.mp4 -k 10

A query goes through the extractor that the indexed features came from and the tower of its modality; what it finds is
the other modality of the indexed clips.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scav_jax import evaluation, files, parallel, trained
from scav_jax.distances import DISTANCES, definition
from scav_jax.features.media import MediaError
from scav_jax.features.staging import open_staged
from scav_jax.media_encoder import MediaEncoder
from scav_jax.retrieval import index
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.search import MODES


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 after one line that names what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m scav_jax.retrieval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", required=True, type=Path, help="folder of the index")
    building = parser.add_argument_group("to make or append to it")
    building.add_argument("--workdir", help="folder of the trained run that encodes")
    building.add_argument("--split", help="of the store (default: the config's data.test_split)")
    building.add_argument("--store", help="of features (default: the config's data.store)")
    asking = parser.add_argument_group("to search it")
    asking.add_argument("--query", type=Path, help="a video, a sound, or features as .npy (length, width)")
    asking.add_argument("--from", dest="modality", help="modality of the query (default: the first that the file has)")
    asking.add_argument("-k", type=int, default=10, help="clips to find (default: %(default)s)")
    asking.add_argument("--mode", default="exact", choices=MODES, help="(default: %(default)s)")
    asking.add_argument("--distance", choices=[name for name in DISTANCES if name != "cosine"],
                        help="(default: the run's config.distance.name)")  # fmt: skip
    asking.add_argument("--candidates", type=int, default=50, help="of hybrid search (default: %(default)s)")
    asking.add_argument("--id", action="append", dest="ids", help="search only among these ids; may be repeated")
    asking.add_argument("--label", action="append", dest="labels", help="search only clips of these labels")
    asking.add_argument("--clip-weights", help="file of the CLIP network that the features came from")
    asking.add_argument("--beats-weights", help="file of the BEATs network")
    asking.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    chosen = parser.parse_args(arguments)
    if (chosen.workdir is None) == (chosen.query is None):
        parser.error("expected --workdir, to make the index, or --query, to search it")
    try:
        return _build(chosen) if chosen.query is None else _search(chosen)
    except (ValueError, MediaError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _build(chosen: argparse.Namespace) -> int:
    mesh = parallel.make_mesh()
    run = trained.load(files.at(chosen.workdir), mesh)
    config = run.config
    split = chosen.split or config.data.test_split
    store = open_staged(chosen.store or config.data.store, config.data.get("stage", ""), {split: [range(sys.maxsize)]})
    evaluation.check_store(config, store)
    about = {
        "run": str(files.absolute(files.at(chosen.workdir))),
        "weights_sha256": run.weights_sha256,
        "sides": list(config.pairs[0]),
        "extractors": {name: entry["extractor"] for name, entry in store.ledger["modalities"].items()},
    }
    exists = (chosen.index / "index.json").exists()
    if exists and (kept := index.load(chosen.index, verify=False).about) != about:
        raise ValueError(f"{chosen.index}: expected an index of the same run, got one of {kept.get('run')}")
    encoder = evaluation.make_encoder(config, mesh)
    encoded = evaluation.encode_split(config, encoder, mesh, {"towers": run.towers}, store, split)
    facts = store.facts(split)
    x, y = (Clips(*encoded[name]) for name in about["sides"])
    ids, labels = [str(clip) for clip in facts.ids], [str(label) for label in facts.labels]
    if exists:
        index.append(chosen.index, x, y, ids, labels)
    else:
        index.build(chosen.index, x, y, ids, labels, about)
    print(f"{chosen.index}: {len(index.load(chosen.index))} clips, {len(ids)} of them new, of split {split}")
    return 0


def _search(chosen: argparse.Namespace) -> int:
    found = index.load(chosen.index)
    about = found.about
    run = trained.load(files.at(about["run"]), parallel.make_mesh())
    if run.weights_sha256 != about["weights_sha256"]:
        raise ValueError(
            f"{about['run']}: expected the weights that made {chosen.index}, the run has gone on; index anew"
        )
    modality, query = _query(chosen, about, run)
    name = chosen.distance or run.config.distance.name
    side = about["sides"].index(modality)
    answer = found.search(
        query,
        min(chosen.k, len(found)),
        distance=name,
        mode=chosen.mode,
        queries_are=index.SIDES[side],
        ids=chosen.ids,
        labels=chosen.labels,
        candidates=max(chosen.k, chosen.candidates),
        **definition(name, run.config.distance),
    )
    rows = [
        {"rank": rank, "distance": float(distance), "id": found.ids[row], "label": found.labels[row]}
        for rank, (row, distance) in enumerate(zip(answer.indices[0], answer.distances[0], strict=True), start=1)
    ]
    certified = chosen.mode != "aggregate" and bool(answer.certified[0])
    facts = {"mode": chosen.mode, "distance": "cosine" if chosen.mode == "aggregate" else name, "query": modality}
    facts |= {"computed": int(answer.computed[0]), "clips": len(found), "proven_exact": certified}
    if chosen.json:
        print(json.dumps({**facts, "found": rows}, indent=1))
        return 0
    print(f"{'rank':>4}  {'distance':>10}  id")
    for row in rows:
        print(f"{row['rank']:>4}  {row['distance']:>10.5f}  {row['id']}{'  ' + row['label'] if row['label'] else ''}")
    proof = "proven to be the nearest" if certified else "not proven to be the nearest"
    took = f"{facts['computed']} distances of {len(found)}"
    print(f"{modality} query, {facts['mode']} by {facts['distance']}: {took}, {proof}")
    return 0


def _query(chosen: argparse.Namespace, about: dict[str, Any], run: trained.Trained) -> tuple[str, Clips]:
    """The query's modality, and the query encoded."""
    sides = about["sides"]
    if chosen.modality not in (None, *sides):
        raise ValueError(f"--from: expected one of {', '.join(sides)}, got {chosen.modality!r}")
    weights = {"clip": chosen.clip_weights, "beats": chosen.beats_weights}
    encoder = MediaEncoder(run, about["extractors"], weights)
    if chosen.query.suffix == ".npy":
        if chosen.modality is None:
            raise ValueError(f"{chosen.query}: expected --from={' or --from='.join(sides)} with features")
        return chosen.modality, encoder.features(chosen.modality, [np.load(chosen.query).astype(np.float32)])
    wanted = [chosen.modality] if chosen.modality else sides
    for modality in wanted:
        try:
            return modality, encoder.files(modality, [chosen.query])
        except MediaError:
            if modality == wanted[-1]:
                raise
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main())
