"""A trained run as others use it: its config and what it learned so far."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from scav_jax import config as configs
from scav_jax import files, parallel, protocol, training
from scav_jax.checkpoint import Checkpoints


@dataclass(frozen=True)
class Trained:
    """The latest checkpoint of a run; `parameters` (towers, log_temperature) are on every device of the mesh."""

    config: Any
    parameters: dict[str, Any]
    step: int

    @property
    def towers(self) -> dict[str, Any]:
        return self.parameters["towers"]

    @property
    def weights_sha256(self) -> str:
        return protocol.weights_sha256(self.towers)


def load(workdir: files.AnyPath, mesh: Mesh) -> Trained:
    """ValueError naming what is missing: the run's config, or a checkpoint."""
    config_path = workdir / "config.json"
    if not config_path.is_file():
        raise ValueError(f"workdir: expected the folder of a run that train.py began, {config_path} is missing")
    config = configs.load(config_path)
    with closing(Checkpoints(workdir, config.checkpoint.keep, read_only=True)) as checkpoints:
        if checkpoints.latest_step is None:
            raise ValueError(f"{workdir}: expected a checkpoint, found none; has train.py reached its first save?")
        state, _ = checkpoints.restore(parallel.replicated_shapes(jax.eval_shape(lambda: training.init(config)), mesh))
    return Trained(config, state.parameters, int(state.step))
