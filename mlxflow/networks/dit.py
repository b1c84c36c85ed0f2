"""The diffusion transformer: a velocity network over a sequence of patches (Peebles & Xie 2023, DiT).

    h = W patches(x) + p                                     p: fixed 2-D sine-cosine positions
    c = silu(MLP(sinusoids(1000 t)) + label)
    s1, b1, g1, s2, b2, g2 = W_k c                           zero at first: every block starts as the identity
    h = h + g1 mixer(norm(h) (1 + s1) + b1)                  adaLN-zero; the mixer is attention here
    h = h + g2 MLP(norm(h) (1 + s2) + b2)
    output = unpatch(W (norm(h) (1 + s) + b))                W zero at first

Queries and keys are RMS-normalised a head (Dehghani et al. 2023, "Scaling Vision Transformers to 22 Billion
Parameters", section 2). norm is RMSNorm without a weight, the MLP's activation SiLU: both are quicker than DiT's
LayerNorm and GELU on a CPU. `PatchSequence` is this network for any mixer: networks/mamba.py puts another in.
"""

import math
from dataclasses import dataclass

import mlx.nn as nn

from mlxflow.networks.blocks import (RMSNorm, StepEmbedding, attention, depth_to_space, silu, space_to_depth, split_heads,
                                     timestep_embedding, zero)
from mlxflow.networks.labels import Labelled
from mlxflow.runtime import mx

SINUSOIDS = 256


@dataclass(frozen=True)
class DiTConfig:
    """Sizes; classes 0 is an unconditional network; few_step: whether a prediction may be asked over a step."""

    image_size: int = 32
    channels: int = 3
    patch: int = 2
    width: int = 192
    depth: int = 6
    heads: int = 3
    mlp_ratio: float = 4.0
    classes: int = 0
    few_step: bool = False

    def __post_init__(self):
        check_patches(self)
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


PRESETS = {
    "laptop": {"width": 128, "depth": 6, "heads": 4},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
}


def check_patches(config) -> None:
    if config.patch < 1 or config.image_size < 1 or config.image_size % config.patch:
        raise ValueError(f"image_size {config.image_size} is not a multiple of patch {config.patch}")
    if config.width % 4:
        raise ValueError(f"width {config.width} is not a multiple of 4")
    if config.depth < 1 or config.channels < 1 or config.classes < 0:
        raise ValueError("depth and channels must be 1 or more, classes 0 or more")


def positions(side: int, width: int) -> mx.array:
    """Sine-cosine positions `[side * side, width]`, half of the width for rows and half for columns (DiT, MAE)."""
    place = mx.arange(side, dtype=mx.float32)
    frequencies = mx.exp(mx.arange(width // 4, dtype=mx.float32) * (-math.log(10_000) / (width // 4)))
    angles = place[:, None] * frequencies[None]
    one = mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)
    rows = mx.broadcast_to(one[:, None], (side, side, width // 2))
    columns = mx.broadcast_to(one[None], (side, side, width // 2))
    return mx.concatenate([rows, columns], axis=-1).reshape(side * side, width)


def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """x `[B, N, D]` (1 + scale) + shift, both `[B, D]`."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Self-attention over `[B, N, D]` with RMS-normalised queries and keys."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        q, k, v = (split_heads(part, self.heads) for part in mx.split(self.qkv(x), 3, axis=-1))
        return self.out(attention(self.q_norm(q), self.k_norm(k), v))


class Block(nn.Module):
    """A mixer and (for hidden > 0) an MLP over `[B, N, D]`, both modulated and gated by c `[B, D]`."""

    def __init__(self, width: int, hidden: int, mixer: nn.Module):
        super().__init__()
        self.norm = RMSNorm(width, affine=False)
        self.mixer = mixer
        self.film = zero(nn.Linear(width, (6 if hidden else 3) * width))
        if hidden:
            self.up = nn.Linear(width, hidden)
            self.down = nn.Linear(hidden, width)

    def __call__(self, x: mx.array, c: mx.array) -> mx.array:
        parts = mx.split(self.film(c), 6 if "up" in self else 3, axis=-1)
        scale, shift, gate = parts[:3]
        x = x + gate[:, None] * self.mixer(modulate(self.norm(x), scale, shift))
        if "up" in self:
            scale, shift, gate = parts[3:]
            x = x + gate[:, None] * self.down(silu(self.up(modulate(self.norm(x), scale, shift))))
        return x


class PatchSequence(Labelled):
    """Prediction `[B, S, S, C]` from x `[B, S, S, C]`, t `[B]` and labels, through blocks over the patches.

    `recompute` forgets what is inside a block after the forward pass and computes it again for the gradients:
    memory for time.
    """

    recompute = False

    def __init__(self, config, mixers: list[nn.Module]):
        super().__init__()
        self.config = config
        width, numbers = config.width, config.patch**2 * config.channels
        self.stem = nn.Linear(numbers, width)
        self._positions = positions(config.image_size // config.patch, width)
        self.time = [nn.Linear(SINUSOIDS, width), nn.Linear(width, width)]
        if config.few_step:
            self.step = StepEmbedding(width)
        self.make_labels(config.classes, width)
        hidden = int(config.mlp_ratio * width)
        self.blocks = [Block(width, hidden, mixer) for mixer in mixers]
        self.norm = RMSNorm(width, affine=False)
        self.head_film = zero(nn.Linear(width, 2 * width))
        self.head = zero(nn.Linear(width, numbers))

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.config.image_size, self.config.image_size, self.config.channels)

    def predict(self, x: mx.array, t: mx.array, condition, step: mx.array | None = None) -> mx.array:
        config = self.config
        side = config.image_size // config.patch
        embedding = timestep_embedding(t, SINUSOIDS).astype(x.dtype)
        c = self.time[1](silu(self.time[0](embedding)))
        if step is not None:
            c = c + self.step(step)
        c = silu(c + condition if config.classes else c)
        h = space_to_depth(x, config.patch).reshape(x.shape[0], side * side, -1)
        h = self.stem(h) + self._positions.astype(x.dtype)
        for block in self.blocks:
            h = (nn.utils.checkpoint(block) if self.recompute else block)(h, c)
        scale, shift = mx.split(self.head_film(c), 2, axis=-1)
        h = self.head(modulate(self.norm(h), scale, shift))
        return depth_to_space(h.reshape(x.shape[0], side, side, -1), config.patch)


class DiT(PatchSequence):
    """The diffusion transformer."""

    kind = "dit"

    def __init__(self, config: DiTConfig):
        super().__init__(config, [Attention(config.width, config.heads) for _ in range(config.depth)])
