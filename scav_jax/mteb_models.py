"""A trained run as models of mteb (pip install 'scav-jax[mteb]'), for its tasks between audio and video.

    import mteb
    from scav_jax import mteb_models

    model = mteb_models.load("runs/vggsound", mode="exact", weights={"clip": "...", "beats": "..."})
    mteb.evaluate(model, mteb.get_tasks(tasks=["VGGSoundAVA2VRetrieval"]))

mode "aggregate" is an encoder, one vector a clip; the others are search models, which rank by the run's own distance.
mteb's files are decoded by the extractors of the run's features, never by mteb: the model sees what it was trained on.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio, Dataset, Video
from mteb.models.model_meta import ModelMeta, ScoringFunction

from scav_jax import distances, files, parallel, trained
from scav_jax.features.store import read_ledger
from scav_jax.media_encoder import MediaEncoder
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.search import MODES, Searcher

COLUMNS = {"video": Video(decode=False), "audio": Audio(decode=False)}  # of mteb, in the order of the run's pair
_BATCH = 32


def load(
    workdir: str | Path,
    *,
    mode: str = "exact",
    extractors: Mapping[str, Any] | None = None,
    weights: Mapping[str, str | Path | None] | None = None,
    candidates: int = 50,
) -> "AggregateEncoder | SequenceSearch":
    """The latest checkpoint of a run as a model.

    extractors: modality -> its description (default: what the ledger of the run's store says); weights: files of the
    networks "clip" and "beats". ValueError: an unknown mode, a run or a store that is not there.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    folder = files.at(str(workdir))
    run = trained.load(folder, parallel.make_mesh())
    if extractors is None:
        ledger = read_ledger(files.at(run.config.data.store))
        extractors = {name: entry["extractor"] for name, entry in ledger["modalities"].items()}
    encoder = MediaEncoder(run, extractors, weights)
    name = f"scav-jax/{folder.name}-{mode}"
    return AggregateEncoder(encoder, name) if mode == "aggregate" else SequenceSearch(encoder, name, mode, candidates)


class _Model:
    def __init__(self, encoder: MediaEncoder, name: str):
        self._encoder, self._name = encoder, name

    @property
    def mteb_model_meta(self) -> ModelMeta:
        run = self._encoder.run
        return ModelMeta(
            loader=None,
            name=self._name,
            revision=run.weights_sha256[:40],
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=int(run.config.model[run.config.pairs[0][0]].width),
            license=None,
            open_weights=False,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=None,
            modalities=["video", "audio"],
        )

    def _encode(self, dataset: Dataset) -> tuple[str, Clips]:
        """The modality of a data set of one column of media, and its clips."""
        columns = [column for column in COLUMNS if column in dataset.column_names]
        if len(columns) != 1:
            raise ValueError(f"columns: expected one of {', '.join(COLUMNS)}, got {dataset.column_names}")
        modality = self._encoder.run.config.pairs[0][list(COLUMNS).index(columns[0])]
        raw = dataset.cast_column(columns[0], COLUMNS[columns[0]])
        with tempfile.TemporaryDirectory() as folder:
            batches = [
                self._encoder.files(modality, paths) for paths in _files(raw.select_columns(columns), Path(folder))
            ]
        return modality, _together(batches)


class AggregateEncoder(_Model):
    """mteb's encoder: the mean of each clip's sequence, of unit norm."""

    def encode(self, inputs: Any, **rest: Any) -> np.ndarray:
        """(N, d) of mteb's loader of a data set with a column "video" or "audio"."""
        clips = self._encode(inputs.dataset)[1]
        mask = clips.valid[..., None]
        means = np.sum(clips.sequences * mask, axis=1) / mask.sum(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        return np.asarray(embeddings1) @ np.asarray(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        return np.sum(np.asarray(embeddings1) * np.asarray(embeddings2), axis=1)


class SequenceSearch(_Model):
    """mteb's search model: ranks by the run's distance, in the mode that it was made for; scores are its negative."""

    def __init__(self, encoder: MediaEncoder, name: str, mode: str, candidates: int):
        super().__init__(encoder, name)
        self._mode, self._candidates = mode, candidates
        self._gallery: tuple[str, Clips, list[str]] | None = None

    def index(self, corpus: Dataset, **rest: Any) -> None:
        modality, clips = self._encode(corpus)
        self._gallery = modality, clips, list(map(str, corpus["id"]))

    def search(
        self, queries: Dataset, *, top_k: int, top_ranked: Mapping[str, Any] | None = None, **rest: Any
    ) -> dict[str, dict[str, float]]:
        """query id -> clip id -> score of the top_k nearest. ValueError: before `index`, or a task that re-ranks."""
        if self._gallery is None or top_ranked is not None:
            raise ValueError("search: expected index to be called first, and no list of documents to re-rank")
        modality, clips, ids = self._gallery
        asked, encoded = self._encode(queries)
        config = self._encoder.run.config
        if asked == modality:
            raise ValueError(f"queries: expected another modality than that of the gallery, got {asked} for both")
        name, side = config.distance.name, "x" if asked == config.pairs[0][0] else "y"
        options = distances.definition(name, config.distance)
        searcher = Searcher(name, clips, queries_are=side, batch_size=_BATCH, **options)
        top_k = min(top_k, len(ids), self._candidates if self._mode == "hybrid" else len(ids))
        found = searcher.search(encoded, top_k, mode=self._mode, candidates=self._candidates)
        return {
            str(query): {ids[row]: -float(value) for row, value in zip(rows, values, strict=True)}
            for query, rows, values in zip(queries["id"], found.indices, found.distances, strict=True)
        }


def _files(dataset: Dataset, folder: Path) -> Iterator[list[Path]]:
    """The media of its one column as files, a batch at a time."""
    (column,) = dataset.column_names
    for first in range(0, len(dataset), _BATCH):
        paths = []
        for position, item in enumerate(dataset[first : first + _BATCH][column]):
            path = Path(item["path"] or "")
            if item["bytes"] is not None:
                path = folder / f"{position}{path.suffix}"
                path.write_bytes(item["bytes"])
            paths.append(path)
        yield paths


def _together(batches: list[Clips]) -> Clips:
    """Batches of different lengths, padded to the longest."""
    length = max(clips.sequences.shape[1] for clips in batches)

    def padded(array):
        return np.pad(array, [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])

    mask = np.concatenate([padded(clips.valid) for clips in batches])
    return Clips(np.concatenate([padded(clips.sequences) for clips in batches]), None if mask.all() else mask)
