"""All-pairs distances: the registry, the checks of inputs and options, and the one tiling that every distance shares.

A distance is one module with: OPTIONS (defaults), check_options, pair (the definition, of one pair; two vmaps of it
are implementation="reference"), prepare (what pairs need of each clip, once a clip), block (all pairs of prepared
clips) and values_per_pair (numbers a block holds for each pair); and, where it applies, self_distance, can_be_negative.
"""

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scav_jax.distances import cosine, dtw, euclidean, ground, wasserstein
from scav_jax.distances.ground import XMasks, XSequences, YMasks, YSequences
from scav_jax.distances.options import check_bool, check_choice, check_count
from scav_jax.shapes import Distances, check_mask, full_mask

DISTANCES: dict[str, ModuleType] = {
    "euclidean": euclidean,
    "dtw": dtw,
    "wasserstein": wasserstein,
    "cosine": cosine,
}
COMMON_OPTIONS: dict[str, Any] = {"unit_norm": False, "precision": "float32", "implementation": "fast"}

# A tile's block stays in a core's cache on CPU; elsewhere it is to fill the machine and leave room for the towers.
_TILE_BYTES = {"cpu": 2**21}
_TILE_BYTES_ACCELERATOR = 2**28


def option_names(name: str) -> tuple[str, ...]:
    """The options that `pairwise(name, ...)` takes beside tile_size."""
    return (*COMMON_OPTIONS, *_module(name).OPTIONS)


def options(name: str, section) -> dict[str, Any]:
    """The keyword arguments of `pairwise(name, ...)` out of a flat config section (a mapping) for all distances.

    Takes what `name` knows and leaves out what only other distances know; a key that none knows is a ValueError.
    tile_size 0 stands for None, and a number of positions may come as text ("32"): flags and configs hold one type.
    """
    known = {"name", "tile_size"}.union(*(option_names(other) for other in DISTANCES))
    unknown = sorted(set(section) - known)
    if unknown:
        raise ValueError(f"distance options: no distance takes {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    chosen = {key: section[key] for key in option_names(name) if key in section}
    if isinstance(chosen.get("resample"), str) and chosen["resample"].isdecimal():
        chosen["resample"] = int(chosen["resample"])
    _check_options(name, chosen)
    return {"tile_size": section.get("tile_size") or None, **chosen}


def can_be_negative(name: str, **options) -> bool:
    """Whether this distance has negative values: what normalization="mean" of the loss cannot take."""
    _, _, own = _check_options(name, options)
    return name in ("dtw", "wasserstein") and DISTANCES[name].can_be_negative(**own)


def pairwise(
    name: str,
    x: XSequences,
    y: YSequences,
    x_mask: XMasks | None = None,
    y_mask: YMasks | None = None,
    *,
    tile_size: int | None = None,
    **options,
) -> Distances:
    """Distance of every clip of x (Bx, n, d) to every clip of y (By, m, d): (Bx, By), float32 (float64 if one is).

    Masks are (B, length) bool prefixes, True = valid (None: every clip is full, which selects cheaper forms); what
    padding holds changes neither value nor gradient. Differentiable in x and y (reverse mode, once). Values and
    gradients do not depend on tile_size, the most clips of x and of y that are compared at a time: memory beyond inputs
    and result is one tile's, which the backward pass computes again. None chooses it from the shapes.

    Options are static. For all: unit_norm (each valid frame divided by its norm first; 0 stays 0), precision of the
    matrix products' inputs ("float32" | "bfloat16"; "reference" has none), implementation ("fast" | "reference", the
    definition vmapped over pairs). Each distance's own are in its module. An unknown name or option, or inputs that do
    not fit together, are a ValueError.
    """
    module, common, own = _check_options(name, options)
    x, y, x_mask, y_mask = _check_inputs(x, y, x_mask, y_mask, common["unit_norm"])
    if common["implementation"] == "reference":
        clips = dict(frames=x, mask=_or_full(x_mask, x)), dict(frames=y, mask=_or_full(y_mask, y))
        return _over_pairs(partial(_reference_block, module, own), *clips, _sides(tile_size, x, y, x.size // len(x)))
    x_clips, y_clips = module.prepare(x, x_mask, y, y_mask, precision=common["precision"], **own)
    sides = _sides(tile_size, x, y, module.values_per_pair(x_clips, y_clips))
    if own.get("debiased"):
        with_self = partial(_with_self, partial(module.self_distance, precision=common["precision"], **own))
        x_clips, y_clips = with_self(x_clips, math.prod(sides)), with_self(y_clips, math.prod(sides))
    return _over_pairs(partial(module.block, precision=common["precision"], **own), x_clips, y_clips, sides)


def marginal_error(
    x: XSequences,
    y: YSequences,
    x_mask: XMasks | None = None,
    y_mask: YMasks | None = None,
    *,
    tile_size: int | None = None,
    **options,
) -> Float[Array, ""]:
    """The worst of all pairs' marginal errors (L1, 0..2) of pairwise("wasserstein", ...) with the same arguments.

    Near 0 the plans have converged; a large one asks for more iterations or a larger epsilon.
    """
    module, common, own = _check_options("wasserstein", options)
    x, y, x_mask, y_mask = _check_inputs(x, y, x_mask, y_mask, common["unit_norm"])
    x_clips, y_clips = module.prepare(x, x_mask, y, y_mask, precision=common["precision"], **own)
    sides = _sides(tile_size, x, y, module.values_per_pair(x_clips, y_clips))
    block = partial(module.marginal_error_block, precision=common["precision"], **own)
    return jnp.max(_over_pairs(block, x_clips, y_clips, sides))


def _module(name):
    if name not in DISTANCES:
        raise ValueError(f"distance: expected one of {', '.join(DISTANCES)}, got {name!r}")
    return DISTANCES[name]


def _check_options(name, options):
    """The distance's module, and all common and own options, defaults filled in."""
    module, known = _module(name), option_names(name)
    for option in options:
        if option not in known:
            raise ValueError(f"{name}: unknown option {option!r}; known: {', '.join(known)}, tile_size")
    common = {key: options.get(key, default) for key, default in COMMON_OPTIONS.items()}
    own = {key: options.get(key, default) for key, default in module.OPTIONS.items()}
    check_bool("unit_norm", common["unit_norm"])
    check_choice("precision", common["precision"], ground.PRECISIONS)
    check_choice("implementation", common["implementation"], ("fast", "reference"))
    module.check_options(**own)
    return module, common, own


def _check_inputs(x, y, x_mask, y_mask, unit_norm):
    """Inputs in the result's type, padding zeroed, frames normalised if asked; the masks both arrays or both None."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    for side, sequences in (("x", x), ("y", y)):
        if sequences.ndim != 3 or 0 in sequences.shape or not jnp.issubdtype(sequences.dtype, jnp.floating):
            expected = "a floating (clips, length, width) array, none of them 0"
            raise ValueError(f"{side}: expected {expected}, got {sequences.dtype} {sequences.shape}")
    if x.shape[2] != y.shape[2]:
        raise ValueError(f"x and y: expected one width, got {x.shape[2]} and {y.shape[2]}")
    check_mask(x_mask, x, "x")
    check_mask(y_mask, y, "y")
    if (x_mask is None) != (y_mask is None):
        x_mask, y_mask = _or_full(x_mask, x), _or_full(y_mask, y)
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)

    def clean(sequences, mask):
        sequences = sequences.astype(dtype)
        # Zeroed before anything else: a non-finite number in the padding would survive a product with zero.
        sequences = sequences if mask is None else jnp.where(mask[:, :, None], sequences, 0)
        return ground.unit_norm(sequences) if unit_norm else sequences

    return clean(x, x_mask), clean(y, y_mask), x_mask, y_mask


def _or_full(mask, sequences):
    return full_mask(sequences) if mask is None else mask


def _reference_block(module, own, x, y):
    def distance(x, y):
        return module.pair(x["frames"], x["mask"], y["frames"], y["mask"], **own)

    return jax.vmap(jax.vmap(distance, (None, 0)), (0, None))(x, y)


def _with_self(self_distance, clips, tile):
    return {**clips, "self": _over_tiles(jax.checkpoint(self_distance), clips, tile)}


def _sides(tile_size, x, y, values_per_pair) -> tuple[int, int]:
    """Clips of x and of y in a tile."""
    if tile_size is not None:
        check_count("tile_size", tile_size)
        return min(tile_size, len(x)), min(tile_size, len(y))
    budget = _TILE_BYTES.get(jax.default_backend(), _TILE_BYTES_ACCELERATOR)
    pairs = max(1, budget // (values_per_pair * x.dtype.itemsize))
    x_side = _even(len(x), max(math.isqrt(pairs), pairs // len(y)))
    return x_side, _even(len(y), pairs // x_side)


def _even(clips, most) -> int:
    """The size that cuts `clips` into the fewest tiles of at most `most`, as even as can be: the least padding."""
    return math.ceil(clips / math.ceil(clips / max(1, most)))


def _over_pairs(block: Callable, x_clips, y_clips, sides: tuple[int, int]) -> Distances:
    """block(x_clips, y_clips) by tiles of `sides`. Rows outside, so that the backward pass adds up y once a row."""
    x_side, y_side = sides
    if x_side == len(jax.tree.leaves(x_clips)[0]) and y_side == len(jax.tree.leaves(y_clips)[0]):
        return block(x_clips, y_clips)
    tile = jax.checkpoint(lambda x_tile, y_tile: block(x_tile, y_tile).T, prevent_cse=False)
    return _over_tiles(lambda x_tile: _over_tiles(partial(tile, x_tile), y_clips, y_side).T, x_clips, x_side)


def _over_tiles(function: Callable, clips, size: int):
    """function(clips) -> (B, ...) over tiles of `size` clips; the last one is filled up with copies, then cut."""
    count = len(jax.tree.leaves(clips)[0])
    if size >= count:
        return function(clips)
    tiles = math.ceil(count / size)

    def split(leaf):
        padding = [(0, tiles * size - count)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding, mode="edge").reshape(tiles, size, *leaf.shape[1:])

    results = jax.lax.map(function, jax.tree.map(split, clips))
    return results.reshape(tiles * size, *results.shape[2:])[:count]
