"""CLIP's vision transformer (Radford et al., arXiv 2103.00020), module by module as its published weights name them.

Patches -> class token first -> + positions -> LayerNorm -> L blocks (pre-norm, quick GELU) -> what `output` asks for.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from scav_jax.models import frozen
from scav_jax.models.blocks import layer_norm
from scav_jax.models.weights import Weights

OUTPUTS = ("projection", "class", "patches")


@dataclass(frozen=True)
class VitConfig:
    """One of the published sizes; `projection` is the width that CLIP shares with text."""

    width: int
    num_layers: int
    num_heads: int
    patch: int
    projection: int
    image: int = 224


class VisionTransformer(nnx.Module):
    """(n, 224, 224, 3) normalised images -> (n, width of the output).

    projection: class token, after its LayerNorm, times the projection. class: without the projection. patches: the mean
    of the other tokens as the last block leaves them.
    """

    def __init__(self, config: VitConfig, output: str, *, rngs: nnx.Rngs):
        self.output = output
        self.embeddings = Embeddings(config, rngs=rngs)
        self.pre_layrnorm = layer_norm(config.width, rngs)
        self.encoder = Encoder(config, rngs=rngs)
        if output != "patches":
            self.post_layernorm = layer_norm(config.width, rngs)
        if output == "projection":
            self.visual_projection = nnx.Linear(config.width, config.projection, use_bias=False, rngs=rngs)

    def __call__(self, images: Float[Array, "n H W 3"]) -> Float[Array, "n columns"]:
        x = self.encoder(self.pre_layrnorm(self.embeddings(images)))
        if self.output == "patches":
            return x[:, 1:].mean(axis=1)
        token = self.post_layernorm(x[:, 0])
        return self.visual_projection(token) if self.output == "projection" else token


class Embeddings(nnx.Module):
    """Patches with the class token before them, and learned positions."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(0.02)
        self.class_embedding = nnx.Param(normal(rngs.params(), (config.width,), jnp.float32))
        self.patch_embedding = frozen.Patches(config.patch, 3, config.width, rngs=rngs)
        self.position_embedding = nnx.Embed((config.image // config.patch) ** 2 + 1, config.width, rngs=rngs)

    def __call__(self, images: Float[Array, "n H W 3"]) -> frozen.Tokens:
        patches = self.patch_embedding(images)
        patches = patches.reshape(len(images), -1, patches.shape[-1])
        token = jnp.broadcast_to(self.class_embedding[...], (len(images), 1, patches.shape[-1]))
        return jnp.concatenate([token, patches], axis=1) + self.position_embedding.embedding[...][None]


class Encoder(nnx.Module):
    """Layers one after another: (n, tokens, width) -> the same."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])

    def __call__(self, x: frozen.Tokens) -> frozen.Tokens:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nnx.Module):
    """x + attention of its norm, then + MLP of its norm."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.layer_norm1 = layer_norm(config.width, rngs)
        self.self_attn = Attention(config, rngs=rngs)
        self.layer_norm2 = layer_norm(config.width, rngs)
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(self, x: frozen.Tokens) -> frozen.Tokens:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Attention(nnx.Module):
    """Every token attends to every token of its picture, by several heads."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nnx.Linear(config.width, config.width, rngs=rngs) for _ in range(4)
        )

    def __call__(self, x: frozen.Tokens) -> frozen.Tokens:
        query, key, value = (frozen.heads(part(x), self.num_heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(frozen.attend(query, key, value))


class Mlp(nnx.Module):
    """Two linear maps with CLIP's quick GELU between, the inner one four times as wide."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(config.width, 4 * config.width, rngs=rngs)
        self.fc2 = nnx.Linear(4 * config.width, config.width, rngs=rngs)

    def __call__(self, x: frozen.Tokens) -> frozen.Tokens:
        x = self.fc1(x)
        return self.fc2(x * jax.nn.sigmoid(1.702 * x))  # CLIP's quick GELU


def vision_part(weights: Weights, output: str) -> Weights:
    """A published file's vision tower under the names of the modules above.

    Files of transformers (whole CLIP, or its vision model saved by version 4 or 5) and of OpenAI and open_clip. The
    text tower is left out, and so is what `output` does not need.
    """
    if any(name.startswith("visual.") for name in weights.arrays):
        weights = _from_openai(weights.under("visual."))
    else:
        weights = weights.without(r"text_model\..*", r"text_projection\..*", "logit_scale", r".*position_ids")
        weights = weights.renamed(lambda name: name.removeprefix("vision_model."))
    unused = {"projection": (), "class": (r"visual_projection\..*",), "patches": (r"visual_projection\..*", r"post_.*")}
    return weights.without(*unused[output]) if unused[output] else weights


_OPENAI = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.": "embeddings.patch_embedding.",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
    "transformer.resblocks.": "encoder.layers.",
    ".attn.": ".self_attn.",
    ".ln_": ".layer_norm",
    ".c_fc.": ".fc1.",
    ".c_proj.": ".fc2.",
}


def _from_openai(weights: Weights) -> Weights:
    arrays: dict[str, np.ndarray] = {}
    for name, array in weights.arrays.items():
        if name == "proj":
            arrays["visual_projection.weight"] = array.T
            continue
        for theirs, ours in _OPENAI.items():
            name = name.replace(theirs, ours)
        prefix, stacked, kind = name.partition("in_proj_")
        if stacked:
            parts = zip(("q", "k", "v"), np.split(array, 3), strict=True)
            arrays |= {f"{prefix}{part}_proj.{kind}": third for part, third in parts}
        else:
            arrays[name] = array
    return Weights(weights.path, weights.sha256, arrays)
