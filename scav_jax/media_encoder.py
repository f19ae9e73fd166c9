"""From files to encoded clips: the extractor that a store's features came from, then the tower of a trained run."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scav_jax.features.extractors import has_network, make_extractor
from scav_jax.models import encoder
from scav_jax.retrieval.clips import Clips
from scav_jax.trained import Trained


class MediaEncoder:
    """Encodes media and features as the run's own clips were.

    extractors: modality -> what a store's ledger says of it; weights: name of a network ("clip", "beats") -> its file.
    ValueError: features whose extractor is not known, weights other than those they came from, features of another
    width; MediaError: a file that has no such modality.
    """

    def __init__(
        self,
        run: Trained,
        extractors: Mapping[str, Mapping[str, Any] | None],
        weights: Mapping[str, str | Path | None] | None = None,
    ):
        self.run = run
        self._extractors, self._weights = extractors, weights or {}
        self._loaded: dict[str, tuple[Any, Any]] = {}

    def files(self, modality: str, paths: Sequence[Path]) -> Clips:
        """Of media files."""
        extractor, network = self._extractor(modality)
        media = [extractor.read(path) for path in paths]
        return self.features(modality, network(media) if network else [extractor(one) for one in media])

    def features(self, modality: str, features: Sequence[np.ndarray]) -> Clips:
        """Of (length, width) features, whose lengths may differ."""
        tower = self.run.config.model[modality]
        for array in features:
            if array.ndim != 2 or array.shape[1] != tower.feature_width or not np.isfinite(array).all():
                expected = f"finite (length, {tower.feature_width}) features"
                raise ValueError(f"{modality}: expected {expected}, got shape {array.shape}")
        lengths = np.array([len(array) for array in features])
        padded = np.zeros((len(features), lengths.max(), tower.feature_width), np.float32)
        for row, array in zip(padded, features, strict=True):
            row[: len(array)] = array
        mask = None if (lengths == lengths.max()).all() else np.arange(lengths.max()) < lengths[:, None]
        return Clips(np.asarray(self._apply[modality](padded, mask)), mask)

    @cached_property
    def _apply(self):
        def run(modality, features, mask):
            return encoder.apply(self.run.towers[modality], self.run.config.model[modality], features, mask)

        return {modality: jax.jit(partial(run, modality)) for modality in self.run.config.model}

    def _extractor(self, modality: str) -> tuple[Any, Any]:
        """The extractor, and its network if it has one."""
        if modality not in self._loaded:
            description = self._extractors.get(modality)
            if description is None:
                raise ValueError(f"{modality}: expected features whose extractor is known; their store does not say it")
            settings = {key: value for key, value in description.items() if key not in ("name", "version")}
            extractor, network = make_extractor(description["name"], **settings), None
            if has_network(extractor):
                from scav_jax.features import networks

                extractor, network = networks.load(extractor, self._weights.get(extractor.name))
                if extractor.weights != settings["weights"]:
                    raise ValueError(
                        f"{extractor.name} weights: expected the file of SHA-256 {settings['weights']!r}, "
                        f"got {extractor.weights!r}"
                    )
            self._loaded[modality] = extractor, network
        return self._loaded[modality]
