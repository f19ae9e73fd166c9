"""The model, the loss and the optimiser in plain PyTorch, as a user's baseline would have them."""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scav_jax.parity.twin_distances import distance

TEMPERATURES = (0.01, 10.0)


def bucket(difference_s: float, buckets: int, max_distance_s: float) -> int:
    """T5's bucket of a time difference in seconds, positive for later keys."""
    half = buckets // 2
    even = half // 2
    edge = 0.1 * max_distance_s
    distance_s = abs(difference_s)
    if distance_s < edge:
        position = distance_s / edge * even
    else:
        position = even + math.log(distance_s / edge) / math.log(1 / 0.1) * (half - even)
    index = min(math.floor(position + 0.5), half - 1)
    return index + half if difference_s > 0 else index


class Attention(nn.Module):
    """Self-attention with T5's bias, Shaw's keys, rotary angles or no positions: (B, length, width) -> the same."""

    def __init__(self, config):
        super().__init__()
        self.config, self.heads = config, config.num_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)
        columns = {"bias": self.heads, "shaw": config.width // self.heads}.get(config.positions)
        if columns:
            self.position_table = nn.Embedding(config.position_buckets, columns)
        self.buckets: dict[int, Tensor] = {}

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            layer(x).reshape(batch, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.config.positions == "rotary":
            query, key = self.rotated(query), self.rotated(key)
        scores = query @ key.transpose(-2, -1)
        if self.config.positions == "shaw":
            scores = scores + torch.einsum("bhqc,qkc->bhqk", query, self.position_rows(length))
        scores = scores / math.sqrt(width // self.heads)
        if self.config.positions == "bias":
            scores = scores + self.position_rows(length).permute(2, 0, 1)
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], -torch.inf)
        mixed = scores.softmax(-1) @ value
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))

    def position_rows(self, length: int) -> Tensor:
        if length not in self.buckets:
            config = self.config
            self.buckets[length] = torch.tensor(
                [
                    [
                        bucket((key - query) / config.rate_hz, config.position_buckets, config.max_distance_s)
                        for key in range(length)
                    ]
                    for query in range(length)
                ]
            )
        return self.position_table(self.buckets[length])

    def rotated(self, vectors: Tensor) -> Tensor:
        length, half = vectors.shape[-2], vectors.shape[-1] // 2
        periods_s = torch.from_numpy(np.geomspace(0.5, 2 * self.config.max_distance_s, half))
        times_s = torch.arange(length, dtype=torch.float64) / self.config.rate_hz
        angles = 2 * math.pi * times_s[:, None] / periods_s
        cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
        first, second = vectors[..., :half], vectors[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Block(nn.Module):
    """Attention and feed-forward, each with its residual, LayerNorm before or after."""

    def __init__(self, config):
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.ffn_norm = nn.LayerNorm(config.width)
        activation = {"gelu": nn.GELU, "relu": nn.ReLU}[config.activation]
        self.ffn = nn.Sequential(
            nn.Linear(config.width, config.ffn_width), activation(), nn.Linear(config.ffn_width, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), valid))
            return x + self.dropout(self.ffn(self.ffn_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, valid)))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))


class Tower(nn.Module):
    """Features (B, length, D) -> sequences (B, length, width), 0 at padding: MLP, blocks, LayerNorm."""

    def __init__(self, config):
        super().__init__()
        layers: list[nn.Module] = []
        width = config.feature_width
        for _ in range(config.mlp_hidden_layers):
            layers += [nn.Linear(width, config.mlp_width), nn.GELU()]
            width = config.mlp_width
        self.mlp = nn.Sequential(*layers, nn.Linear(width, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.output_norm = nn.LayerNorm(config.width) if config.output_norm else None

    def forward(self, features: Tensor, valid: Tensor | None) -> Tensor:
        if valid is not None:
            features = features.masked_fill(~valid[:, :, None], 0)
        x = self.mlp(features)
        for block in self.blocks:
            x = block(x, valid)
        if self.output_norm is not None:
            x = self.output_norm(x)
        return x if valid is None else x.masked_fill(~valid[:, :, None], 0)


class Twin(nn.Module):
    """Towers and a temperature: features of every modality -> sequences."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.towers = nn.ModuleDict({name: Tower(config.model[name]) for name in config.model})
        pair = "_".join(config.pairs[0])
        self.log_temperature = nn.ParameterDict({pair: nn.Parameter(torch.zeros(()))})

    def forward(self, batch: dict[str, Tensor | None]) -> dict[str, Tensor]:
        return {name: tower(batch[name], batch.get(f"{name}_mask")) for name, tower in self.towers.items()}

    def distances(self, name: str, sequences: Mapping[str, Tensor], batch: Mapping[str, Tensor | None]) -> Tensor:
        """All pairs, by the options that the config has for this distance."""
        x, y = self.config.pairs[0]
        masks = (batch.get(f"{side}_mask") for side in (x, y))
        lengths = [None if mask is None else mask.sum(1) for mask in masks]
        return distance(name, sequences[x], sequences[y], *lengths, **options(name, self.config.distance))

    def loss(self, name: str, distances: Tensor) -> Tensor:
        """InfoNCE, symmetric, of normalised distances."""
        recipe = self.config.recipe[name]
        (log_temperature,) = self.log_temperature.values()
        if not recipe.temperature_learned:
            log_temperature = log_temperature.detach()
        targets = torch.arange(len(distances))
        losses = [
            F.cross_entropy(-normalized(side, recipe.normalization) / log_temperature.exp(), targets)
            for side in (distances, distances.T)
        ]
        return (losses[0] + losses[1]) / 2


def options(name: str, section) -> dict:
    """Of the config's flat section, what this distance takes."""
    found = {"unit_norm": section.unit_norm}
    if name == "euclidean":
        resample = section.resample
        found["resample_to"] = int(resample) if str(resample).isdecimal() else resample
    names = {
        "cosine": (),
        "euclidean": ("squared",),
        "dtw": ("gamma", "cost", "normalize", "debiased"),
        "wasserstein": ("epsilon", "num_iterations", "cost", "position_weight", "debiased"),
    }
    return {**found, **{key: section[key] for key in names[name]}}


def normalized(distances: Tensor, normalization: str) -> Tensor:
    """Each row by its own statistics."""
    mean = distances.mean(1, keepdim=True)
    if normalization == "zscore":
        return (distances - mean) / (distances.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    if normalization == "mean":
        return distances / mean
    if normalization == "minmax":
        least, most = distances.amin(1, keepdim=True), distances.amax(1, keepdim=True)
        return (distances - least) / (most - least)
    return distances


class Optimizer:
    """AdamW on clipped gradients, warm-up and cosine; linear maps decay and nothing else does."""

    def __init__(self, model: Twin, name: str):
        config, section = model.config, model.config.optimizer
        self.model, self.clip_norm = model, section.clip_norm
        self.parameters = list(model.parameters())
        decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
        groups = [
            {"params": [p for p in self.parameters if id(p) in decayed], "weight_decay": section.weight_decay},
            {"params": [p for p in self.parameters if id(p) not in decayed], "weight_decay": 0.0},
        ]
        peak = config.recipe[name].learning_rate
        self.adamw = torch.optim.AdamW(groups, lr=peak, betas=(section.b1, section.b2))
        warmup = min(max(1, round(section.warmup_fraction * config.steps)), config.steps - 1)

        def share(step: int) -> float:
            if step + 1 < warmup:
                return (step + 1) / warmup
            progress = min(1.0, (step + 1 - warmup) / (config.steps - warmup))
            return section.end_fraction + (1 - section.end_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, share)

    def step(self) -> None:
        """One update with the parameters' gradients, which it clears."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.stack([(gradient**2).sum() for gradient in gradients]).sum().sqrt()
        for gradient in gradients:
            gradient.mul_(min(1.0, self.clip_norm / float(norm)))
        self.adamw.step()
        self.schedule.step()
        self.adamw.zero_grad(set_to_none=False)
        with torch.no_grad():
            for value in self.model.log_temperature.values():
                value.clamp_(*map(math.log, TEMPERATURES))
