"""What every module of a tower gives back, one after the other or each by itself: to find where two towers part."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scav_jax import shapes
from scav_jax.models import encoder


def module_names(config: Any) -> list[str]:
    """In the order in which they run; "blocks.0" is what the whole layer gives back."""
    pre = "attention_norm", "attention", "ffn_norm", "ffn"
    post = "attention", "attention_norm", "ffn", "ffn_norm"
    inside = [*(f".{module}" for module in (pre if config.norm == "pre" else post)), ""]
    layers = [f"blocks.{index}{module}" for index in range(config.num_layers) for module in inside]
    return ["mlp", *layers, *(["output_norm"] if config.output_norm else [])]


def activations(
    parameters: encoder.Parameters,
    config: Any,
    features: Float[Array, "B length D"],
    mask: shapes.Masks | None,
    given: Mapping[str, Float[Array, "B length width"]],
) -> dict[str, Float[Array, "B length width"]]:
    """Module (see `module_names`) -> output, without dropout.

    What comes after a module that is `given` reads the given output in place of its own: with all of another
    implementation's outputs, every module is compared with that one's alone.
    """
    tower = encoder.with_parameters(config, parameters)

    def of_clip(features, mask, given):
        found = {}

        def ran(name, output):
            found[name] = output
            return given.get(name, output)

        x = ran("mlp", tower.mlp(features))
        for index in range(config.num_layers):
            block = jax.tree.map(lambda stacked, index=index: stacked[index], tower.blocks)
            name = f"blocks.{index}"
            if block.pre_norm:
                normed = ran(f"{name}.attention_norm", block.attention_norm(x))
                attended = x + ran(f"{name}.attention", block.attention(normed, mask))
                normed = ran(f"{name}.ffn_norm", block.ffn_norm(attended))
                x = ran(name, attended + ran(f"{name}.ffn", block.ffn(normed)))
            else:
                attended = x + ran(f"{name}.attention", block.attention(x, mask))
                normed = ran(f"{name}.attention_norm", block.attention_norm(attended))
                fed = normed + ran(f"{name}.ffn", block.ffn(normed))
                x = ran(name, ran(f"{name}.ffn_norm", block.ffn_norm(fed)))
        if tower.output_norm is not None:
            x = ran("output_norm", tower.output_norm(x))
        return found

    features = features if mask is None else jnp.where(mask[:, :, None], features, 0)
    return jax.vmap(of_clip, in_axes=(0, None if mask is None else 0, 0))(features, mask, dict(given))
