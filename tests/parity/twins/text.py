"""The text encoder: a pre-norm transformer over word vectors, and the sketch that a memory draws of a prompt.

    h = W v + p;  h = h + Attention(norm(h));  h = h + W2 silu(W1 norm(h));  tokens = norm(h)
    pooled = P mean over the words of tokens;  sketch = base + pixels(W memory(pooled))
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import Norm, Pointwise, closing, heads, joined, unfold


class Condition(NamedTuple):
    """tokens `[B, L, D]`, mask `[B, L]` (True: a word), pooled `[B, D]`, sketch `[B, C, G, G]` or None."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    sketch: Tensor | None


class Memory(nn.Module):
    """A query of 64 numbers looks up 128 numbers among the slots: softmax(q . k / sqrt(64)) v."""

    KEY, VALUE = 64, 128

    def __init__(self, width: int, slots: int):
        super().__init__()
        self.query = nn.Linear(width, self.KEY, bias=False)
        self.norm = Norm(self.KEY, affine=False)
        self.slot_keys = nn.Parameter(torch.zeros(slots, self.KEY))
        self.slot_values = nn.Parameter(torch.zeros(slots, self.VALUE))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.norm(self.query(x)) @ self.slot_keys.T / math.sqrt(self.KEY)
        return scores.softmax(-1) @ self.slot_values


class Sketch(nn.Module):
    """The memory's value, changed by the words, as 4x4 cells of `features` numbers each, of which one matrix makes the
    pixels of a cell.
    """

    CELLS, FEATURES, HIDDEN = 4, 32, 96

    def __init__(self, width: int, slots: int, shape):
        super().__init__()
        side, _, channels = shape
        self.memory = Memory(width, slots)
        self.of_value = nn.Linear(Memory.VALUE, self.HIDDEN)
        self.of_words = nn.Linear(width, self.HIDDEN, bias=False)
        self.change = nn.Linear(self.HIDDEN, Memory.VALUE)
        self.down = nn.Linear(Memory.VALUE, self.CELLS**2 * self.FEATURES)
        self.pixels = Pointwise(self.FEATURES, (side // self.CELLS) ** 2 * channels, bias=False)
        self.base = nn.Parameter(torch.zeros(side, side, channels))

    def forward(self, pooled: Tensor) -> Tensor:
        value = self.memory(pooled)
        value = value + self.change(F.silu(self.of_value(value) + self.of_words(pooled)))
        cells = self.down(value).unflatten(1, (self.CELLS, self.CELLS, -1)).movedim(-1, 1)
        return self.base.movedim(-1, 0) + unfold(self.pixels(cells), self.base.shape[0] // self.CELLS)


class SelfAttention(nn.Module):
    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (heads(part, self.count) for part in self.qkv(x).chunk(3, dim=-1))
        return self.out(joined(F.scaled_dot_product_attention(q, k, v, attn_mask=closing(mask, x.dtype))))


class TextBlock(nn.Module):
    def __init__(self, width: int, count: int, hidden: int):
        super().__init__()
        self.norm1 = Norm(width)
        self.attention = SelfAttention(width, count)
        self.norm2 = Norm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.down(F.silu(self.up(self.norm2(x))))


class TextEncoder(nn.Module):
    """Word vectors `[B, L, E]` and mask `[B, L]` to a `Condition`; all of it is zero for a prompt without a
    word.
    """

    def __init__(self, sizes: dict):
        super().__init__()
        width = sizes["width"]
        self.project = nn.Linear(sizes["word_dim"], width)
        self.positions = nn.Parameter(torch.zeros(sizes["length"], width))
        self.blocks = nn.ModuleList(TextBlock(width, sizes["heads"], sizes["hidden"])
                                    for _ in range(sizes["layers"]))
        self.norm = Norm(width)
        self.pool = nn.Linear(width, width, bias=False)
        self.sketch = Sketch(width, sizes["sketch"], sizes["sketch_shape"]) if sizes.get("sketch") else None

    def forward(self, vectors: Tensor, mask: Tensor) -> Condition:
        h = self.project(vectors) + self.positions[: vectors.shape[1]]
        for block in self.blocks:
            h = block(h, mask)
        h = self.norm(h).masked_fill(~mask[..., None], 0)
        pooled = self.pool(h.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
        sketch = self.sketch(pooled) if self.sketch is not None else None
        if sketch is not None:
            sketch = sketch * mask.any(1)[:, None, None, None]
        return Condition(h, mask, pooled, sketch)
