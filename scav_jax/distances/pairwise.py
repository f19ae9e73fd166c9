"""All-pairs distances: the registry, and the checks of inputs and options.

A distance is one module with: OPTIONS (defaults), check_options, pair (the definition, of one pair; two vmaps of it
are implementation="reference"), prepare (what pairs need of each clip, once a clip), block (all pairs of prepared
clips), tile_budget (the memory of a block, for tiling) and pair_alignment; and, where it applies, self_distance,
can_be_negative.
"""

from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scav_jax.distances import cosine, dtw, euclidean, ground, tiling, wasserstein
from scav_jax.distances.ground import XMasks, XSequence, XSequences, YMasks, YSequence, YSequences
from scav_jax.distances.options import check_bool, check_choice
from scav_jax.shapes import Distances, check_mask, full_mask

DISTANCES: dict[str, ModuleType] = {
    "euclidean": euclidean,
    "dtw": dtw,
    "wasserstein": wasserstein,
    "cosine": cosine,
}
COMMON_OPTIONS: dict[str, Any] = {"unit_norm": False, "precision": "float32", "implementation": "fast"}


def option_names(name: str) -> tuple[str, ...]:
    """The options that `pairwise(name, ...)` takes beside tile_size."""
    return (*COMMON_OPTIONS, *_module(name).OPTIONS)


def options(name: str, section) -> dict[str, Any]:
    """The keyword arguments of `pairwise(name, ...)` out of a flat config section (a mapping) for all distances.

    Takes what `name` knows and leaves out what only other distances know; a key that none knows is a ValueError.
    tile_size 0 stands for None, and a number of positions may come as text ("32"): flags and configs hold one type.
    """
    return {"tile_size": section.get("tile_size") or None, **definition(name, section)}


def definition(name: str, section) -> dict[str, Any]:
    """`options` but tile_size, which says how the distance is computed and not which it is."""
    known = {"name", "tile_size"}.union(*(option_names(other) for other in DISTANCES))
    unknown = sorted(set(section) - known)
    if unknown:
        raise ValueError(f"distance options: no distance takes {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    chosen = {key: section[key] for key in option_names(name) if key in section}
    if isinstance(chosen.get("resample"), str) and chosen["resample"].isdecimal():
        chosen["resample"] = int(chosen["resample"])
    _check_options(name, chosen)
    return chosen


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
    and result is one tile's, which the backward pass computes again. None chooses it from the shapes and the backend,
    and may keep the solutions of "wasserstein" for the backward pass.

    Options are static. For all: unit_norm (each valid frame divided by its norm first; 0 stays 0), precision of the
    matrix products' inputs ("float32" | "bfloat16"; "reference" has none), implementation ("fast" | "reference", the
    definition vmapped over pairs). Each distance's own are in its module. An unknown name or option, or inputs that do
    not fit together, are a ValueError.
    """
    module, common, own = _check_options(name, options)
    x, y, x_mask, y_mask = _check_inputs(x, y, x_mask, y_mask, common["unit_norm"])
    if common["implementation"] == "reference":
        clips = dict(frames=x, mask=_or_full(x_mask, x)), dict(frames=y, mask=_or_full(y_mask, y))
        differences = x[0].size * y.shape[1] * x.dtype.itemsize
        tiles = tiling.choose(tile_size, x, y, pair_bytes=differences, cpu_tile_bytes=2**25)
        return tiling.over_pairs(partial(_reference_block, module, own), *clips, tiles)
    x_clips, y_clips, tiles = _prepare(module, x, x_mask, y, y_mask, tile_size, precision=common["precision"], **own)
    if own.get("debiased"):
        self_distance = jax.checkpoint(partial(module.self_distance, precision=common["precision"], **own))
        for clips in (x_clips, y_clips):
            clips["self"] = tiling.over_tiles(self_distance, clips, tiles.pairs)
    return tiling.over_pairs(partial(module.block, precision=common["precision"], **own), x_clips, y_clips, tiles)


def _prepare(module, x, x_mask, y, y_mask, tile_size, **options):
    x_clips, y_clips = module.prepare(x, x_mask, y, y_mask, **options)
    return x_clips, y_clips, tiling.choose(tile_size, x, y, **module.tile_budget(x_clips, y_clips))


def marginal_error(
    x: XSequences, y: YSequences, x_mask: XMasks | None = None, y_mask: YMasks | None = None, **options
) -> Float[Array, ""]:
    """The worst of all pairs' marginal errors (L1, 0..2) of pairwise("wasserstein", ...) with the same arguments.

    Near 0 the plans have converged; a large one asks for more iterations or a larger epsilon.
    """
    return jnp.max(_of_transport(wasserstein.marginal_error_block, x, y, x_mask, y_mask, **options))


def first_dual(
    x: XSequences, y: YSequences, x_mask: XMasks | None = None, y_mask: YMasks | None = None, **options
) -> Distances:
    """What pairwise("wasserstein", ...) of the same arguments, not debiased, is never below, at a fraction of the cost.

    The dual after one iteration, which every later one raises; less than it where exponentials would underflow.
    """
    return _of_transport(wasserstein.first_dual_block, x, y, x_mask, y_mask, **options)


def _of_transport(block, x, y, x_mask, y_mask, *, tile_size=None, **options):
    """A block of Wasserstein's over all pairs."""
    module, common, own = _check_options("wasserstein", options)
    x, y, x_mask, y_mask = _check_inputs(x, y, x_mask, y_mask, common["unit_norm"])
    x_clips, y_clips, tiles = _prepare(module, x, x_mask, y, y_mask, tile_size, precision=common["precision"], **own)
    return tiling.over_pairs(partial(block, precision=common["precision"], **own), x_clips, y_clips, tiles)


def alignment(
    name: str,
    x: XSequence,
    y: YSequence,
    x_mask: Bool[Array, " n"] | None = None,
    y_mask: Bool[Array, " m"] | None = None,
    **options,
) -> Float[Array, "n m"]:
    """Which frame of x (n, d) goes with which step of y (m, d), as the distance of this one pair sees it: (n, m), >= 0.

    euclidean: interpolation weights (sum 1 at every position); dtw: expected alignment, at gamma = 0 the path;
    wasserstein: transport plan (sum 1); cosine: uniform (sum 1). 0 at padding. Options, masks and errors as in
    `pairwise`; tile_size, precision and implementation change nothing here. For pictures, not for gradients.
    """
    options.pop("tile_size", None)
    module, common, own = _check_options(name, options)

    def batch_of_one(side):
        return None if side is None else jnp.asarray(side)[None]

    batches = batch_of_one(x), batch_of_one(y), batch_of_one(x_mask), batch_of_one(y_mask)
    x, y, x_mask, y_mask = _check_inputs(*batches, common["unit_norm"])
    return module.pair_alignment(x[0], _or_full(x_mask, x)[0], y[0], _or_full(y_mask, y)[0], **own)


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
