"""The trained tower of one modality: MLP -> Transformer with relative positions in seconds.

Two pure functions, `init` and `apply`; the Flax modules behind them never leave this package. The tower follows the
paper (arXiv 2407.05782): an MLP to a common width, relative positions, 8 visual or 2 audio blocks. What the paper does
not state (heads, norms, activation, dropout, kind of position) is our choice, and a key of the config: configs/base.py.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray, UInt32

from scav_jax import shapes
from scav_jax.models import positions
from scav_jax.models.blocks import ACTIVATIONS, NORMS, Block, gelu, layer_norm

Parameters = dict[str, Any]

_CHOICES = {
    "norm": NORMS,
    "activation": tuple(ACTIVATIONS),
    "positions": positions.CHOICES,
    "compute_dtype": ("float32", "bfloat16"),
}


def init(rng: PRNGKeyArray, config: Any) -> Parameters:
    """Parameters of one tower: a nested dict of float32 arrays, those of all blocks stacked on a leading axis.

    Args:
      rng: one key; the same key and config give the same parameters.
      config: one tower's section of configs/base.py, or any object with its attributes.

    Raises:
      ValueError: the config asks for what does not exist; names the key, its value and what it may be.
    """
    check_config(config)
    _, state = nnx.split(Tower(config, rngs=nnx.Rngs(rng)))
    return nnx.to_pure_dict(state)


def apply(
    parameters: Parameters,
    config: Any,
    features: Float[Array, "B length D"],
    mask: shapes.Masks | None,
    *,
    rng: Key[Array, " clips"] | UInt32[Array, "clips words"] | None = None,
) -> shapes.Sequences:
    """Features (B, length, D) -> sequences (B, length, d) of the common width; differentiable, jit-able.

    Padded positions reach no valid one, whatever they hold (NaN included), and come out as zeros. Computes with JAX's
    default matmul precision, in the promoted type of features and parameters, float32 in practice; with
    config.compute_dtype "bfloat16" in that type, attention weights and LayerNorm's statistics in float32, and the
    sequences are bfloat16. Parameters and their gradients stay as they are.

    Args:
      parameters: as `init` made them for this config.
      config: as for `init`; static under jit (an ml_collections FrozenConfigDict can be a static argument).
      mask: (B, length) prefix masks, True = valid; None says that every clip is full.
      rng: None for no dropout (evaluation), or (B,) keys, one a clip. A clip's dropout depends on its key alone, not on
        its place in the batch, the batch size or the device.

    Raises:
      ValueError: a bad config, features of another width than `config.feature_width`, a mask that is no prefix,
        not one key a clip, parameters of another config.
    """
    check_config(config)
    if features.shape[-1] != config.feature_width:
        raise ValueError(f"features: expected feature_width {config.feature_width}, got shape {features.shape}")
    if rng is not None and rng.shape[:1] != features.shape[:1]:
        raise ValueError(f"rng: expected one key a clip, shape ({len(features)},), got {rng.shape}")
    shapes.check_mask(mask, features, "features")
    if config.compute_dtype != "float32":
        parameters, features = jax.tree.map(lambda leaf: leaf.astype(config.compute_dtype), (parameters, features))
    tower = with_parameters(config, parameters)
    return jax.vmap(tower, in_axes=(0, None if mask is None else 0, None if rng is None else 0))(features, mask, rng)


class Tower(nnx.Module):
    """The network for one clip."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.scan_layers, self.remat = config.scan_layers, config.remat
        self.num_layers = config.num_layers
        self.mlp = Mlp(config, rngs=rngs)
        layer_keys = jax.random.split(rngs.params(), config.num_layers)
        self.blocks = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(layer_keys)
        self.output_norm = layer_norm(config.width, rngs) if config.output_norm else None

    def __call__(
        self, features: Float[Array, "length D"], mask: Bool[Array, " length"] | None, key: PRNGKeyArray | None
    ) -> shapes.Sequence:
        if mask is not None:
            features = jnp.where(mask[:, None], features, 0)  # a zero attention weight does not stop a NaN
        x = self.mlp(features)

        def apply_layer(x, layer):
            block, layer_key = layer
            return block(x, mask, layer_key), None

        if self.remat:
            apply_layer = jax.checkpoint(apply_layer, prevent_cse=not self.scan_layers)
        layers = (self.blocks, None if key is None else jax.random.split(key, self.num_layers))
        if self.scan_layers:
            x, _ = jax.lax.scan(apply_layer, x, layers)
        else:
            for index in range(self.num_layers):
                x, _ = apply_layer(x, jax.tree.map(lambda stacked, index=index: stacked[index], layers))
        if self.output_norm is not None:
            x = self.output_norm(x)
        return x if mask is None else jnp.where(mask[:, None], x, 0)


class Mlp(nnx.Module):
    """`mlp_hidden_layers` hidden layers of `mlp_width` with GELU, then a linear map to `width`, frame by frame."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        self.names = [f"hidden_{index}" for index in range(config.mlp_hidden_layers)]
        width = config.feature_width
        for name in self.names:
            setattr(self, name, nnx.Linear(width, config.mlp_width, rngs=rngs))
            width = config.mlp_width
        self.output = nnx.Linear(width, config.width, rngs=rngs)

    def __call__(self, features: Float[Array, "length D"]) -> shapes.Sequence:
        x = features
        for name in self.names:
            x = gelu(getattr(self, name)(x))
        return self.output(x)


def with_parameters(config: Any, parameters: Parameters) -> Tower:
    """The network of a config, holding these parameters. ValueError: they are of another config."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Tower(config, rngs=nnx.Rngs(0))))
    expected, got = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (nnx.to_pure_dict(state), parameters)
    )
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"parameters{name}: expected shape {expected.get(name)} from the config, got {got.get(name)} "
            f"({len(wrong)} of {len(expected)} differ)"
        )
    return nnx.merge(graph, parameters)


def check_config(config: Any) -> None:
    """ValueError at the first key of a tower's section whose value cannot be; names key, value and what may be."""
    for field in ("feature_width", "width", "mlp_width", "num_layers", "num_heads", "ffn_width"):
        _require(config, field, getattr(config, field) >= 1, "at least 1")
    _require(config, "mlp_hidden_layers", config.mlp_hidden_layers >= 0, "at least 0")
    for field in ("rate_hz", "max_distance_s"):
        value = getattr(config, field)
        _require(config, field, math.isfinite(value) and value > 0, "positive and finite")
    _require(config, "dropout", 0 <= config.dropout < 1, "in [0, 1)")
    for field, choices in _CHOICES.items():
        _require(config, field, getattr(config, field) in choices, f"one of {', '.join(choices)}")
    buckets = config.position_buckets
    _require(config, "position_buckets", buckets >= 4 and buckets % 2 == 0, "an even number, at least 4")
    _require(config, "width", config.width % config.num_heads == 0, f"a multiple of num_heads = {config.num_heads}")
    if config.positions == "rotary":
        even = config.width // config.num_heads % 2 == 0
        _require(config, "width", even, f"an even multiple of num_heads = {config.num_heads} for rotary positions")


def _require(config: Any, field: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{field}: expected {expected}, got {getattr(config, field)!r}")
