"""A run's numbers: RUN/metrics.jsonl, one JSON object a line, and the same for TensorBoard in RUN/tensorboard."""

import json
from collections.abc import Mapping
from typing import Any

from scav_jax import files


class MetricsWriter:
    """Appends rows; on resume it first drops the rows of steps that are about to be done again.

    A number that is not finite is written as NaN or Infinity, which Python's json reads.
    """

    def __init__(self, workdir: files.AnyPath, start_step: int):
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        # A line without its end is a write that a kill cut short.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        self._lines = files.Lines(path, [line for line in lines if json.loads(line)["step"] <= start_step])
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        row = {"step": step, **{key: float(value) for key, value in metrics.items()}}
        self._lines.add(json.dumps(row))
        for key, value in row.items():
            if key != "step":
                self._tensorboard.add_scalar(key.replace("_", "/", 1) if key.startswith("eval_") else key, value, step)

    def flush(self) -> None:
        """To be called before a checkpoint is saved, so that no run resumes after rows that a kill lost."""
        self._lines.flush()

    def close(self) -> None:
        self._lines.close()
        self._tensorboard.close()


class NoWriter:
    """In the place of the writer, in every process but the first."""

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
