"""A run's numbers: RUN/metrics.jsonl, one JSON object a line, and the same for TensorBoard in RUN/tensorboard."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scav_jax import files

_NO_CURVES = {"step", "ids_crc32"}


class MetricsWriter:
    """Appends rows; on resume it first drops the rows of steps that are about to be done again. `earlier`: the others.

    In a bucket both are there as of the last `flush`, metrics.jsonl of 30 s ago at most (see files.Lines).
    A number that is not finite is written as NaN or Infinity, which Python's json reads.
    """

    def __init__(self, workdir: files.AnyPath, start_step: int):
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        # A line without its end is a write that a kill cut short.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        self.earlier = [row for row in map(json.loads, lines) if row["step"] <= start_step]
        self._lines = files.Lines(path, map(json.dumps, self.earlier))
        self._events = workdir / "tensorboard"
        # TensorBoard's writer appends. Its own way into a bucket hangs the run once an upload fails.
        self._local = tempfile.TemporaryDirectory() if files.in_bucket(workdir) else None
        folder = self._local.name if self._local else str(self._events)
        self._tensorboard = SummaryWriter(folder, purge_step=start_step + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The row as it is written."""
        row = {"step": step, **{key: float(value) for key, value in metrics.items()}}
        self._lines.add(json.dumps(row))
        for key, value in row.items():
            if key not in _NO_CURVES:
                self._tensorboard.add_scalar(key.replace("_", "/", 1) if key.startswith("eval_") else key, value, step)
        return row

    def flush(self) -> None:
        """To be called before a checkpoint is saved, so that no run resumes after rows that a kill lost."""
        self._lines.flush()
        self._tensorboard.flush()
        self._upload_events()

    def close(self) -> None:
        self._lines.close()
        self._tensorboard.close()
        self._upload_events()
        if self._local:
            self._local.cleanup()

    def _upload_events(self) -> None:
        for file in Path(self._local.name).iterdir() if self._local else ():
            files.write_whole(self._events / file.name, file.read_bytes())


class NoWriter:
    """In the place of the writer, in every process but the first."""

    earlier = ()

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
