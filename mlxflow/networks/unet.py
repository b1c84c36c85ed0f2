"""The emoji model's velocity network: a three-level residual/attention U-Net over patches.

    x_t [64, 64, 4] -> patches of 4x4 (16x16x64) -> residual blocks at 16x16, residual and attention blocks at
    8x8 and 4x4, and back with skips -> patches -> pixels, where a thin 3x3 convolution smooths the seams.

A layer costs 2 x parameters x positions, so most parameters stand at 8x8 and 4x4, resolution changes by
space-to-depth and a matrix product, and attention (over the grid's own positions and the text tokens, one
softmax) is left to the small grids. Time and pooled text modulate each block (FiLM; Perez et al. 2017). A prompt's
sketch, one pixel a patch, joins the patches at the input.
"""

from dataclasses import dataclass

import mlx.nn as nn

from mlxflow.networks.blocks import (CLOSED, Conv3x3, RMSNorm, StepEmbedding, attention, depth_to_space, silu, space_to_depth,
                                     split_heads, timestep_embedding, zero)
from mlxflow.networks.text import Condition
from mlxflow.runtime import mx


HINT = 0.8


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net. Lists have one entry a level, from the largest grid to the smallest.

    sketch: whether the condition brings a sketch `[B, S / patch, S / patch, channels]`.
    few_step: whether a prediction may be asked over a step (flow/fewstep.py).
    """

    image_size: int = 64
    channels: int = 4
    patch: int = 4
    widths: tuple[int, ...] = (64, 128, 192)
    blocks: tuple[int, ...] = (1, 2, 1)
    attention: tuple[int, ...] = (0, 1, 1)
    heads_dim: int = 32
    mlp_ratio: float = 2.0
    embedding: int = 160
    text_width: int = 192
    pixel_width: int = 8
    sketch: bool = False
    few_step: bool = False


class Modulation(nn.Module):
    """RMSNorm whose scale and shift come from the embedding: norm(x) (1 + scale) + shift."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.norm = RMSNorm(width, affine=False)
        self.film = zero(nn.Linear(embedding, 2 * width))

    def __call__(self, x: mx.array, embedding: mx.array) -> mx.array:
        film = self.film(embedding)
        film = film.reshape(film.shape[0], *([1] * (x.ndim - 2)), film.shape[-1])
        scale, shift = mx.split(film, 2, axis=-1)
        return self.norm(x) * (1 + scale) + shift


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(modulated norm(x)))), 3x3 each, at one width; the second starts at zero."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.modulation = Modulation(width, embedding)
        self.conv1 = Conv3x3(width, width)
        self.conv2 = zero(Conv3x3(width, width))

    def __call__(self, x: mx.array, embedding: mx.array) -> mx.array:
        return x + self.conv2(silu(self.conv1(self.modulation(x, embedding))))


class AttentionBlock(nn.Module):
    """Grid positions attend to each other and to the text tokens in one softmax, then an MLP.

    A learned null key and value stand beside the text's, so that a dropped prompt still has one open key.
    """

    def __init__(self, config: UNetConfig, width: int):
        super().__init__()
        if width % config.heads_dim:
            raise ValueError(f"a width of {width} with attention is no multiple of heads_dim {config.heads_dim}")
        self.heads = width // config.heads_dim
        self.attention_in = Modulation(width, config.embedding)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.text_kv = nn.Linear(config.text_width, 2 * width, bias=False)
        self.null_kv = mx.zeros((2 * width,))
        self.q_norm = RMSNorm(config.heads_dim)
        self.k_norm = RMSNorm(config.heads_dim)
        self.out = zero(nn.Linear(width, width))
        self.mlp_in = RMSNorm(width)
        hidden = int(width * config.mlp_ratio)
        self.up = nn.Linear(width, hidden)
        self.down = zero(nn.Linear(hidden, width))

    def __call__(self, x: mx.array, embedding: mx.array, text: mx.array, bias: mx.array) -> mx.array:
        b, h, w, c = x.shape
        x = x.reshape(b, h * w, c)
        q, k, v = mx.split(self.qkv(self.attention_in(x, embedding)), 3, axis=-1)
        null = mx.broadcast_to(self.null_kv, (b, 1, 2 * c))
        text_k, text_v = mx.split(mx.concatenate([null, self.text_kv(text)], axis=1), 2, axis=-1)
        k = mx.concatenate([text_k, k], axis=1)
        v = mx.concatenate([text_v, v], axis=1)
        q = self.q_norm(split_heads(q, self.heads))
        k = self.k_norm(split_heads(k, self.heads))
        bias = mx.pad(bias, [(0, 0), (1, h * w)])[:, None, None, :]
        x = x + self.out(attention(q, k, split_heads(v, self.heads), bias))
        x = x + self.down(silu(self.up(self.mlp_in(x))))
        return x.reshape(b, h, w, c)


class Stage(nn.Module):
    """The blocks of one level on one side: residual blocks, the last `attentions` of them with attention."""

    def __init__(self, config: UNetConfig, level: int):
        super().__init__()
        width, count = config.widths[level], config.blocks[level]
        self.residual = [ResidualBlock(width, config.embedding) for _ in range(count)]
        self.attention = [AttentionBlock(config, width) for _ in range(config.attention[level])]

    def __call__(self, x, embedding, text, bias):
        first = len(self.residual) - len(self.attention)
        for i, block in enumerate(self.residual):
            x = block(x, embedding)
            if i >= first:
                x = self.attention[i - first](x, embedding, text, bias)
        return x


def sketch_weight(stem: mx.array, channels: int) -> mx.array:
    """The stem's own reading of a plain patch, `[W, patch * patch * C]` to `[W, C]`: a sketch starts as a hint that the
    network takes for a part of x_t. A U-Net trained without sketches, given one so, found 42 % of names at once (0 %
    with zeros, 38 % at half the strength)."""
    return HINT * stem.reshape(stem.shape[0], -1, channels).sum(1)


class UNet(nn.Module):
    """Prediction `[B, S, S, C]` (data or velocity, as the process reads it) from x `[B, S, S, C]`, t `[B]`.

    With `config.few_step` also over steps `[B]`; without a step, at the time itself.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        patch_dims = config.patch**2 * config.channels
        widths, grid = config.widths, config.image_size // config.patch
        self.stem = nn.Linear(patch_dims, widths[0])
        self.position = mx.random.normal((grid, grid, widths[0])) * 0.02
        self.time = [nn.Linear(config.embedding, config.embedding), nn.Linear(config.embedding, config.embedding)]
        if config.few_step:
            self.step = StepEmbedding(config.embedding)
        self.pooled = nn.Linear(config.text_width, config.embedding, bias=False)
        self.null_pooled = mx.zeros((config.text_width,))
        levels = range(len(widths))
        self.encoder = [Stage(config, i) for i in levels]
        self.decoder = [Stage(config, i) for i in levels]
        self.downs = [nn.Linear(4 * widths[i], widths[i + 1]) for i in levels[:-1]]
        self.ups = [nn.Linear(widths[i + 1], 4 * widths[i]) for i in levels[:-1]]
        self.skips = [nn.Linear(widths[i], widths[i]) for i in levels[:-1]]
        self.head_norm = Modulation(widths[0], config.embedding)
        self.head = zero(nn.Linear(widths[0], patch_dims))
        if config.sketch:
            self.sketch = nn.Linear(config.channels, widths[0], bias=False)
            self.sketch.weight = sketch_weight(self.stem.weight, config.channels)
        if config.pixel_width:
            self.pixel_in = nn.Conv2d(config.channels, config.pixel_width, 3, padding=1)
            self.pixel_out = zero(nn.Conv2d(config.pixel_width, config.channels, 3, padding=1))

    def __call__(self, x: mx.array, t: mx.array, condition: Condition, step: mx.array | None = None) -> mx.array:
        config = self.config
        open_text = condition.mask
        pooled = mx.where(mx.any(open_text, axis=1, keepdims=True), condition.pooled, self.null_pooled)
        embedding = timestep_embedding(t, config.embedding).astype(x.dtype)
        embedding = self.time[1](silu(self.time[0](embedding)))
        if step is not None:
            embedding = embedding + self.step(step)
        embedding = embedding + self.pooled(pooled)
        embedding = silu(embedding)
        bias = mx.where(open_text, 0.0, CLOSED).astype(x.dtype)

        h = self.stem(space_to_depth(x, config.patch)) + self.position
        if config.sketch:
            h = h + self.sketch(condition.sketch)
        skips = []
        for i, stage in enumerate(self.encoder):
            h = stage(h, embedding, condition.tokens, bias)
            if i < len(self.downs):
                skips.append(h)
                h = self.downs[i](space_to_depth(h, 2))
        for i in reversed(range(len(self.decoder))):
            if i < len(self.ups):
                h = depth_to_space(self.ups[i](h), 2) + self.skips[i](skips[i])
            h = self.decoder[i](h, embedding, condition.tokens, bias)
        out = depth_to_space(self.head(self.head_norm(h, embedding)), config.patch)
        if config.pixel_width:
            out = out + self.pixel_out(silu(self.pixel_in(out)))
        return out
