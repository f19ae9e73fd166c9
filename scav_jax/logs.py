"""A run's numbers: RUN/metrics.jsonl, one JSON object a line, and the same for TensorBoard in RUN/tensorboard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsWriter:
    """Appends rows; on resume it first drops the rows of steps that are about to be done again.

    A number that is not finite is written as NaN or Infinity, which Python's json reads.
    """

    def __init__(self, workdir: Path, start_step: int):
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            # A line without its end is a write that a kill cut short.
            kept = [line for line in self._path.read_text().split("\n")[:-1] if json.loads(line)["step"] <= start_step]
            partial = self._path.with_suffix(".partial")
            partial.write_text("".join(f"{line}\n" for line in kept))
            partial.replace(self._path)
        self._file = self._path.open("a")
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        row = {"step": step, **{key: float(value) for key, value in metrics.items()}}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for key, value in row.items():
            if key != "step":
                self._tensorboard.add_scalar(key.replace("_", "/", 1) if key.startswith("eval_") else key, value, step)

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


class NoWriter:
    """In the place of the writer, in every process but the first."""

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass
