"""The U-Net over patches: residual blocks modulated by time and text, attention on the small grids, skips.

    block:      x + conv(silu(conv(norm(x) (1 + scale) + shift)))         (scale, shift) = W e
    attention:  one softmax over [a learned null, the words, the grid's own places]; queries and keys are
    normalised e = silu(MLP(sinusoids(t)) + step(h) + W pooled)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import (HeadNorm, MapNorm, Norm, Pointwise, StepEmbedding, closing, fold, grid, heads, joined,
                     sinusoids, tokens, unfold)
from .text import Condition


class Modulation(nn.Module):
    """norm(x) (1 + scale) + shift over the channels of a map, or of tokens."""

    def __init__(self, width: int, embedding: int, map: bool = True):
        super().__init__()
        self.map = map
        self.norm = (MapNorm if map else Norm)(width, affine=False)
        self.film = nn.Linear(embedding, 2 * width)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        film = self.film(e)
        scale, shift = film[:, :, None, None].chunk(2, dim=1) if self.map else film[:, None].chunk(2, dim=2)
        return self.norm(x) * (1 + scale) + shift


class ResidualBlock(nn.Module):
    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.modulation = Modulation(width, embedding)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(self.modulation(x, e))))


class AttentionBlock(nn.Module):
    def __init__(self, sizes: dict, width: int):
        super().__init__()
        self.count = width // sizes["heads_dim"]
        self.attention_in = Modulation(width, sizes["embedding"], map=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.text_kv = nn.Linear(sizes["text_width"], 2 * width, bias=False)
        self.null_kv = nn.Parameter(torch.zeros(2 * width))
        self.q_norm = HeadNorm(sizes["heads_dim"])
        self.k_norm = HeadNorm(sizes["heads_dim"])
        self.out = nn.Linear(width, width)
        self.mlp_in = Norm(width)
        hidden = int(width * sizes["mlp_ratio"])
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, e: Tensor, condition: Condition) -> Tensor:
        height, width = x.shape[2:]
        x = tokens(x)
        q, own_k, own_v = self.qkv(self.attention_in(x, e)).chunk(3, dim=-1)
        text_k, text_v = self.text_kv(condition.tokens).chunk(2, dim=-1)
        null_k, null_v = self.null_kv.expand(len(x), 1, -1).chunk(2, dim=-1)
        k, v = torch.cat([null_k, text_k, own_k], dim=1), torch.cat([null_v, text_v, own_v], dim=1)
        # Open: the null, the words of the prompt, and all places.
        opened = F.pad(F.pad(condition.mask, (1, 0), value=True), (0, x.shape[1]), value=True)
        q, k, v = (heads(part, self.count) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v,
                                               attn_mask=closing(opened, x.dtype))
        x = x + self.out(joined(mixed))
        x = x + self.down(F.silu(self.up(self.mlp_in(x))))
        return grid(x, height, width)


class Stage(nn.Module):
    """Residual blocks, of which the last few are followed by attention."""

    def __init__(self, sizes: dict, level: int):
        super().__init__()
        width, count = sizes["widths"][level], sizes["blocks"][level]
        self.residual = nn.ModuleList(ResidualBlock(width, sizes["embedding"]) for _ in range(count))
        self.attention = nn.ModuleList(AttentionBlock(sizes, width) for _ in range(sizes["attention"][level]))

    def forward(self, x: Tensor, e: Tensor, condition: Condition) -> Tensor:
        plain = len(self.residual) - len(self.attention)
        for block in self.residual[:plain]:
            x = block(x, e)
        for block, attention in zip(self.residual[plain:], self.attention):
            x = attention(block(x, e), e, condition)
        return x


class UNet(nn.Module):
    """Prediction `[B, C, S, S]` from x `[B, C, S, S]`, t `[B]`, a condition, and a step `[B]` where it is
    told one.
    """

    def __init__(self, sizes: dict):
        super().__init__()
        self.patch = sizes["patch"]
        widths, width, text = sizes["widths"], sizes["embedding"], sizes["text_width"]
        numbers, side = self.patch**2 * sizes["channels"], sizes["image_size"] // self.patch
        self.width = width
        self.stem = Pointwise(numbers, widths[0])
        self.position = nn.Parameter(torch.zeros(side, side, widths[0]))
        self.time = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.step = StepEmbedding(width) if sizes.get("few_step") else None
        self.pooled = nn.Linear(text, width, bias=False)
        self.null_pooled = nn.Parameter(torch.zeros(text))
        pairs = list(zip(widths, widths[1:]))
        self.encoder = nn.ModuleList(Stage(sizes, i) for i in range(len(widths)))
        self.decoder = nn.ModuleList(Stage(sizes, i) for i in range(len(widths)))
        self.downs = nn.ModuleList(Pointwise(4 * wide, narrow) for wide, narrow in pairs)
        self.ups = nn.ModuleList(Pointwise(narrow, 4 * wide) for wide, narrow in pairs)
        self.skips = nn.ModuleList(Pointwise(wide, wide) for wide, _ in pairs)
        self.head_norm = Modulation(widths[0], width)
        self.head = Pointwise(widths[0], numbers)
        self.sketch = Pointwise(sizes["channels"], widths[0], bias=False) if sizes.get("sketch") else None
        pixels = sizes["pixel_width"]
        self.pixel_in = nn.Conv2d(sizes["channels"], pixels, 3, padding=1) if pixels else None
        self.pixel_out = nn.Conv2d(pixels, sizes["channels"], 3, padding=1) if pixels else None

    def forward(self, x: Tensor, t: Tensor, condition: Condition, step: Tensor | None = None) -> Tensor:
        told = condition.mask.any(1, keepdim=True)
        e = self.time[1](F.silu(self.time[0](sinusoids(t, self.width))))
        e = e + self.pooled(torch.where(told, condition.pooled, self.null_pooled))
        e = F.silu(e if step is None else e + self.step(step))

        h = self.stem(fold(x, self.patch)) + self.position.movedim(-1, 0)
        if self.sketch is not None:
            h = h + self.sketch(condition.sketch)
        kept = []
        for stage, down in zip(self.encoder, [*self.downs, None]):
            h = stage(h, e, condition)
            kept.append(h)
            h = down(fold(h, 2)) if down is not None else h
        h = self.decoder[-1](h, e, condition)
        for level in reversed(range(len(self.ups))):
            h = unfold(self.ups[level](h), 2) + self.skips[level](kept[level])
            h = self.decoder[level](h, e, condition)
        out = unfold(self.head(self.head_norm(h, e)), self.patch)
        if self.pixel_in is not None:
            out = out + self.pixel_out(F.silu(self.pixel_in(out)))
        return out
