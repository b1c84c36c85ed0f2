"""The text encoder: word vectors to a condition, a small pre-norm transformer.

    h = W v + p                       word vectors into the width, learned positions
    h = h + Attention(RMSNorm(h))     `layers` times, over the words that the mask names
    h = h + MLP(RMSNorm(h))
    tokens = RMSNorm(h)               pooled = P mean(tokens over the words of the mask)

A prompt whose mask is all False (empty, or dropped for guidance) has zero tokens and a zero pooled vector:
the network that reads the condition puts its own learned null in their place.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402

from mlxflow.networks.blocks import CLOSED, RMSNorm, attention, silu, split_heads


class Condition(NamedTuple):
    """What a network is told of a prompt: tokens [B, L, D] and pooled [B, D] float32, mask [B, L] bool."""

    tokens: mx.array
    mask: mx.array
    pooled: mx.array


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder; `word_dim` is the `dim` of the word table, `length` the most words."""

    word_dim: int = 128
    width: int = 192
    layers: int = 2
    heads: int = 4
    hidden: int = 512
    length: int = 24

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class SelfAttention(nn.Module):
    """Attention over [B, L, D] where only positions with mask [B, L] True are looked at."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """`bias` [B, 1, 1, L] is added to the scores: 0 where a word is, `CLOSED` elsewhere.

        `CLOSED` is finite: a row of -inf alone would make softmax 0 / 0.
        """
        q, k, v = (split_heads(part, self.heads) for part in mx.split(self.qkv(x), 3, axis=-1))
        return self.out(attention(q, k, v, bias))


class TextBlock(nn.Module):
    """One pre-norm transformer block over [B, L, D]."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = RMSNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        x = x + self.attention(self.norm1(x), bias)
        return x + self.down(silu(self.up(self.norm2(x))))


class TextEncoder(nn.Module):
    """Word vectors [B, L, word_dim] and mask [B, L] to a `Condition` of width D; L <= config.length."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.word_dim, config.width)
        self.positions = 0.02 * mx.random.normal((config.length, config.width))
        self.blocks = [TextBlock(config.width, config.heads, config.hidden) for _ in range(config.layers)]
        self.norm = RMSNorm(config.width)
        self.pool = nn.Linear(config.width, config.width, bias=False)

    def __call__(self, vectors: mx.array, mask: mx.array) -> Condition:
        present = mask[..., None].astype(vectors.dtype)
        bias = mx.where(mask, 0.0, CLOSED).astype(vectors.dtype)[:, None, None, :]
        x = self.project(vectors) + self.positions[: vectors.shape[1]]
        for block in self.blocks:
            x = block(x, bias)
        tokens = self.norm(x) * present
        pooled = self.pool(tokens.sum(axis=1) / mx.maximum(present.sum(axis=1), 1.0))
        return Condition(tokens, mask, pooled)
