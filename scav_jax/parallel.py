"""A batch spread over a mesh axis: who holds which clips, sums over devices, and all-pairs distances in a ring.

Functions that take axis_name run inside jax.shard_map over that axis; with None they are those of one device.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from scav_jax import distances
from scav_jax.distances.ground import XMasks, XSequences, YMasks, YSequences

CLIPS = "clips"  # the mesh axis over which a batch is spread


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """These devices along CLIPS, neighbours near each other; None: all of all processes."""
    count = jax.device_count() if devices is None else len(devices)
    return jax.make_mesh((count,), (CLIPS,), axis_types=(AxisType.Auto,), devices=devices)


def own_devices(mesh: Mesh) -> list[int]:
    """Where along the axis the devices of this process stand; on a pod the neighbours of one may be another's."""
    return [place for place, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]


def spread(tree: Any, mesh: Mesh) -> Any:
    """The clips of this process's devices (B / processes, ...), on the host, in the order of `own_devices`, as the
    global batch, each device holding its own."""
    sharding = NamedSharding(mesh, PartitionSpec(CLIPS))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree)


def spread_whole(tree: Any, mesh: Mesh) -> Any:
    """A global batch (B, ...), whole on the host of every process, each device holding its own."""
    sharding = NamedSharding(mesh, PartitionSpec(CLIPS))
    return jax.tree.map(lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__), tree)


def by_device(part: Callable[[int], Any], mesh: Mesh) -> Any:
    """part(place along the axis), a tree of arrays on the host, for each device of this process, side by side."""
    own = {place: part(place) for place in own_devices(mesh)}
    sharding = NamedSharding(mesh, PartitionSpec(CLIPS))

    def together(*leaves):
        placed = [jax.device_put(leaf, mesh.devices.flat[place]) for place, leaf in zip(own, leaves, strict=True)]
        shape = (mesh.size * len(leaves[0]), *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, placed)

    return jax.tree.map(together, *own.values())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree, the same in every process, whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def spread_shapes(tree: Any, mesh: Mesh) -> Any:
    """Of arrays like these, spread over their first axis."""
    return _shapes(tree, mesh, PartitionSpec(CLIPS))


def replicated_shapes(tree: Any, mesh: Mesh) -> Any:
    """Of arrays like these, whole on every device."""
    return _shapes(tree, mesh, PartitionSpec())


def gather(tree: Any) -> Any:
    """Arrays spread over the devices of all processes, whole in the host memory of each."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def on_every_device(step: Callable, mesh: Mesh, *, results_are_spread: bool = False) -> Callable:
    """step(state, batch, axis_name=None) -> results of both kinds of device: one, or all of the mesh.

    The state is the same on all devices, the batch is spread over them, results either.
    """
    if mesh.size == 1:
        return step
    specs = PartitionSpec(), PartitionSpec(CLIPS)
    out_specs = PartitionSpec(CLIPS) if results_are_spread else PartitionSpec()
    return jax.shard_map(partial(step, axis_name=CLIPS), mesh=mesh, in_specs=specs, out_specs=out_specs)


def size(axis_name: str | None) -> int:
    """Devices along the axis; 1 without one."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def index(axis_name: str | None) -> Int[Array, ""] | int:
    """Of this device along the axis."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def total(tree: Any, axis_name: str | None) -> Any:
    """The sum over devices of every leaf."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def mean(values: Float[Array, "..."], axis_name: str | None) -> Float[Array, ""]:
    """Over all entries of all devices."""
    return total(jnp.mean(values), axis_name) / size(axis_name)


def varying(tree: Any, axis_name: str | None) -> Any:
    """The tree as a copy a device, whose gradients are the device's own."""
    return tree if axis_name is None else jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), tree)


def all_pairs(
    name: str,
    x: XSequences,
    y: YSequences,
    x_mask: XMasks | None = None,
    y_mask: YMasks | None = None,
    *,
    axis_name: str | None,
    **options,
) -> Float[Array, "Bx N"]:
    """Distances of this device's x to the y of all devices, in their order: its rows of the global matrix.

    Arguments and options are those of `distances.pairwise`, x and y this device's own. Every device keeps its rows
    while columns travel in a ring. Differentiable in x and y: on the way back the columns travel round once more and
    take their gradient with them, so that no device ever holds more than its own sequences, one visitor's, and its
    rows of the matrix.
    """
    if size(axis_name) == 1:
        return distances.pairwise(name, x, y, x_mask, y_mask, **options)
    return _ring_distances(x, y, x_mask, y_mask, name, axis_name, tuple(sorted(options.items())))


def matrix(name: str, x: tuple, y: tuple, mesh: Mesh, **options) -> Float[np.ndarray, "Bx By"]:
    """`distances.pairwise` of two whole sets, (sequences, mask) on the host of every process, by all devices.

    The matrix is whole on every host. Each side is filled up with copies of its last clip, where devices do not divide.
    """
    if mesh.size == 1:
        x, y = jax.tree.map(jnp.asarray, (x, y))
        return np.asarray(distances.pairwise(name, x[0], y[0], x[1], y[1], **options))

    def rows(x, y, axis_name):
        return all_pairs(name, x[0], y[0], x[1], y[1], axis_name=axis_name, **options)

    def filled(leaf):
        missing = -len(leaf) % mesh.size
        return np.concatenate([leaf, np.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

    own = PartitionSpec(CLIPS)
    by_all = jax.shard_map(partial(rows, axis_name=CLIPS), mesh=mesh, in_specs=(own, own), out_specs=own)
    whole = gather(jax.jit(by_all)(*(spread_whole(jax.tree.map(filled, side), mesh) for side in (x, y))))
    return whole[: len(x[0]), : len(y[0])]


def ring(turn: Callable, carry: Any, visitor: Any, axis_name: str | None) -> tuple[Any, Any]:
    """(carry, visitor) after carry, visitor = turn(carry, visitor, home) of every device's visitor, home being its own.

    Each device begins with what it calls visitor and has it back at the end, with what the others did to it.
    """
    count = size(axis_name)
    if count == 1:
        return turn(carry, visitor, 0)
    around = [(device, (device + 1) % count) for device in range(count)]

    def step(state, number):
        carry, visitor = turn(*state, (index(axis_name) - number) % count)
        return (carry, jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis_name, around), visitor)), None

    return jax.lax.scan(step, (carry, visitor), jnp.arange(count))[0]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _ring_distances(x, y, x_mask, y_mask, name, axis_name, options):
    def turn(matrix, visitor, home):
        block = distances.pairwise(name, x, visitor[0], x_mask, visitor[1], **dict(options))
        return jax.lax.dynamic_update_slice_in_dim(matrix, block, home * len(y), axis=1), visitor

    dtype = jax.eval_shape(lambda: distances.pairwise(name, x, y, x_mask, y_mask, **dict(options))).dtype
    nothing = jnp.zeros_like(x, shape=(len(x), size(axis_name) * len(y)), dtype=dtype)
    return ring(turn, nothing, (y, y_mask), axis_name)[0]


def _ring_distances_forward(x, y, x_mask, y_mask, name, axis_name, options):
    return _ring_distances(x, y, x_mask, y_mask, name, axis_name, options), (x, y, x_mask, y_mask)


def _ring_distances_backward(name, axis_name, options, residuals, cotangent):
    x, y, x_mask, y_mask = residuals
    dtype = cotangent.dtype  # not that of x: many small gradients are about to be added up

    def turn(x_gradient, visitor, home):
        other, other_mask, y_gradient = visitor

        def block(x, other):
            return distances.pairwise(name, x, other, x_mask, other_mask, **dict(options))

        own = jax.lax.dynamic_slice_in_dim(cotangent, home * len(y), len(y), axis=1)
        of_x, of_y = jax.vjp(block, x.astype(dtype), other.astype(dtype))[1](own)
        return x_gradient + of_x, (other, other_mask, y_gradient + of_y)

    x_gradient, y_gradient = (jnp.zeros_like(side, dtype=dtype) for side in (x, y))
    x_gradient, (_, _, y_gradient) = ring(turn, x_gradient, (y, y_mask, y_gradient), axis_name)
    return x_gradient.astype(x.dtype), y_gradient.astype(y.dtype), None, None


_ring_distances.defvjp(_ring_distances_forward, _ring_distances_backward)


def _shapes(tree, mesh, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
