"""`python -m scav_jax.retrieval` and the mteb models: a trained run's clips searched with files."""

import json
import shutil

import numpy as np
import pytest
from test_entry import train

from scav_jax import mteb_models
from scav_jax.features.store import open_store
from scav_jax.retrieval import index
from scav_jax.retrieval.__main__ import main


@pytest.fixture(scope="module")
def run(shell, marimba, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "searched"
    trained = train(shell, marimba / "store", workdir)
    assert trained.returncode == 0, trained.stderr
    return workdir


@pytest.fixture(scope="module")
def built(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indices") / "test"
    assert main([f"--index={folder}", f"--workdir={run}"]) == 0
    return folder


def ask(capsys, *arguments):
    capsys.readouterr()
    code = main(list(map(str, arguments)))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_an_index_holds_the_split_and_says_whose_it_is(built, run, marimba, capsys):
    found = index.load(built)
    facts = open_store(marimba / "store").facts("test")
    assert found.ids == facts.ids.tolist()
    assert found.labels == facts.labels.tolist()
    assert (found.about["run"], found.about["sides"]) == (str(run.resolve()), ["visual", "audio"])
    code, _, error = ask(capsys, f"--index={built}", f"--workdir={run}")
    assert code == 1
    assert "expected ids of their own" in error


def test_an_index_is_appended_to(run, tmp_path, capsys):
    folder = tmp_path / "index"
    counts = []
    for split in ("val", "test"):
        code, out, _ = ask(capsys, f"--index={folder}", f"--workdir={run}", f"--split={split}")
        assert code == 0
        assert f"new, of split {split}" in out
        counts.append(len(index.load(folder)))
    assert 0 < counts[0] < counts[1]


@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_a_file_finds_what_its_stored_features_find(built, marimba, capsys, modality, tmp_path):
    found = index.load(built)
    row = 5
    (clip,) = (marimba / "world" / "media" / "test").glob(f"{found.ids[row]}.mp4")
    code, out, _ = ask(capsys, f"--index={built}", f"--query={clip}", f"--from={modality}", "-k4", "--json")
    assert code == 0
    answer = json.loads(out)
    assert (answer["query"], answer["proven_exact"], answer["clips"]) == (modality, True, len(found))
    side, queries = ("x", found.x) if modality == "visual" else ("y", found.y)
    options = {"unit_norm": True, "resample": "x_to_y", "squared": True}
    expected = found.search(queries[[row]], 4, queries_are=side, **options)
    assert [one["id"] for one in answer["found"]] == [found.ids[other] for other in expected.indices[0]]
    np.testing.assert_allclose([one["distance"] for one in answer["found"]], expected.distances[0], rtol=1e-4)

    features = open_store(marimba / "store").split("test")[row][modality]
    np.save(tmp_path / "query.npy", features)
    code, same, _ = ask(capsys, f"--index={built}", f"--query={tmp_path / 'query.npy'}", f"--from={modality}", "-k4")
    assert code == 0
    lines = same.splitlines()
    assert [line.split()[2] for line in lines[1:5]] == [one["id"] for one in answer["found"]]
    assert "proven to be the nearest" in lines[-1]


@pytest.mark.heavy
def test_other_modes_distances_and_filters(built, marimba, capsys):
    found = index.load(built)
    clip = marimba / "world" / "media" / "test" / f"{found.ids[0]}.mp4"
    some = found.ids[3:9]
    query = (f"--index={built}", f"--query={clip}", "-k3", "--json")
    for mode in ("aggregate", "sequence", "hybrid", "exact"):
        code, out, _ = ask(capsys, *query, f"--mode={mode}", "--distance=dtw", *(f"--id={one}" for one in some))
        assert code == 0
        answer = json.loads(out)
        assert {one["id"] for one in answer["found"]} <= set(some)
        assert answer["distance"] == ("cosine" if mode == "aggregate" else "dtw")


def test_bad_questions_are_named(built, run, marimba, tmp_path, capsys):
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"no media")
    np.save(tmp_path / "wide.npy", np.zeros((4, 3), np.float32))
    moved = tmp_path / "moved"
    shutil.copytree(built, moved)
    facts = json.loads((moved / "index.json").read_text())
    facts["about"]["weights_sha256"] = "0" * 64
    (moved / "index.json").write_text(json.dumps(facts))
    for arguments, message in (
        ([f"--index={tmp_path}", f"--query={noise}"], "expected an index, found no index.json"),
        ([f"--index={built}", f"--query={noise}"], "noise.mp4"),
        ([f"--index={built}", f"--query={tmp_path / 'wide.npy'}"], "expected --from=visual or --from=audio"),
        ([f"--index={built}", f"--query={tmp_path / 'wide.npy'}", "--from=audio"], "width|features"),
        (
            [f"--index={built}", f"--query={noise}", "--from=smell"],
            "--from: expected one of visual, audio, got 'smell'",
        ),
        ([f"--index={moved}", f"--query={noise}"], "expected the weights that made"),
        ([f"--index={built}", f"--workdir={tmp_path}"], "config.json is missing"),
    ):
        code, _, error = ask(capsys, *arguments)
        assert code == 1
        (line,) = error.splitlines()
        assert line.startswith("error: ")
        assert any(part in line for part in message.split("|"))
    with pytest.raises(SystemExit):
        main([f"--index={built}"])
    assert "expected --workdir, to make the index, or --query, to search it" in capsys.readouterr().err


def toy_task(media, ids, queries, corpus):
    """mteb's own kind of task: every clip's audio finds its video, or the other way round."""
    from datasets import Audio, Dataset, Video
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    kinds = {"video": Video(decode=False), "audio": Audio(decode=False)}

    def of(column):
        paths = [str(media / f"{clip_id}.mp4") for clip_id in ids]
        return Dataset.from_dict({"id": ids, column: paths}).cast_column(column, kinds[column])

    class Toy(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Marimba{queries}2{corpus}",
            description="Rendered marimba clips.",
            reference=None,
            dataset={"path": "none", "revision": "0"},
            type="Any2AnyRetrieval",
            category=f"{queries[0]}2{corpus[0]}",
            modalities=["video", "audio"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **_):
            qrels = {clip_id: {clip_id: 1} for clip_id in ids}
            split = {"queries": of(queries), "corpus": of(corpus), "relevant_docs": qrels, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Toy()


@pytest.mark.heavy  # mteb's import alone takes many seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("mode", ["aggregate", "sequence", "hybrid", "exact"])
@pytest.mark.parametrize(("queries", "corpus", "direction"), [("video", "audio", "v2a"), ("audio", "video", "a2v")])
def test_mteb_scores_as_eval_does(run, marimba, shell, mode, queries, corpus, direction):
    import mteb

    facts = open_store(marimba / "store").facts("test")
    model = mteb_models.load(run, mode=mode, candidates=10)
    task = toy_task(marimba / "world" / "media" / "test", facts.ids.tolist(), queries, corpus)
    scores = mteb.evaluate(model, task, cache=None, encode_kwargs={"batch_size": 8}, co2_tracker=False)
    found = scores.task_results[0].scores["test"][0]
    evaluated = shell("eval.py", f"--workdir={run}", "--k=10", "--modes=aggregate,sequence,hybrid,exact", "--noreport")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    (row,) = (
        row for row in metrics["results"] if (row["mode"], row["direction"], row["subset"]) == (mode, direction, "all")
    )
    # A hit at k is mteb's recall at k, with one clip to find. The store rounds features to 16 bits, mteb's files are
    # read anew: that may decide one near tie.
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] * 100 == pytest.approx(row[f"R@{k}"], abs=100 / len(facts.ids) + 1e-3)
