"""Checkpoints by Orbax: train state and data position, whole or not at all, the newest restored."""

from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from scav_jax import files


class Checkpoints:
    """RUN/checkpoints: `save` blocks until the checkpoint is complete; `restore` knows only complete ones.

    keep: how many of the newest stay. read_only: for a run that another process may be writing.
    """

    def __init__(self, workdir: files.AnyPath, keep: int, *, read_only: bool = False):
        self._checkpointer = ocp.training.Checkpointer(
            files.absolute(workdir / "checkpoints"),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=not read_only,
        )

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, position: Mapping[str, Any]) -> None:
        self._checkpointer.save_checkpointables(step, {"state": state, "data": dict(position)}, force=True)

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """(state, data position) of the newest checkpoint, in the shapes of `abstract_state` and on its devices.

        A leaf that names no device (jax.eval_shape) goes to the first one.
        """
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract_state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or first), abstract_state
        )
        restored = self._checkpointer.load_checkpointables(None, {"state": abstract_state, "data": None})
        return restored["state"], jax.tree.map(int, restored["data"])

    def close(self) -> None:
        self._checkpointer.close()
