"""The text encoder: a pre-norm transformer over word vectors, and the sketch that a memory draws of a prompt.

    h = W v + p;  h = h + Attention(norm(h));  h = h + W2 silu(W1 norm(h));  tokens = norm(h)
    pooled = P mean over the words of tokens;  sketch = base + pixels(W memory(pooled))

A collage looks up two things and lays them over each other in five places, where a prompt tells of several.
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

    def answer(self, query: Tensor) -> Tensor:
        return (self.norm(query) @ self.slot_keys.T / math.sqrt(self.KEY)).softmax(-1) @ self.slot_values

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.query(x))


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

    def changed(self, value: Tensor, words: Tensor) -> Tensor:
        return value + self.change(F.silu(self.of_value(value) + self.of_words(words)))

    def picture(self, value: Tensor) -> Tensor:
        """`[..., VALUE]` to `[..., C, G, G]`."""
        cells = self.down(value).flatten(0, -2).unflatten(1, (self.CELLS, self.CELLS, -1)).movedim(-1, 1)
        drawn = self.base.movedim(-1, 0) + unfold(self.pixels(cells), self.base.shape[0] // self.CELLS)
        return drawn.unflatten(0, value.shape[:-1])

    def forward(self, pooled: Tensor) -> Tensor:
        return self.picture(self.changed(self.memory(pooled), pooled))


class Finder(nn.Module):
    """Four maps over the words (the names of both things, then how they are), and whether there are several."""

    HEADS, HEAD = 2, 12

    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * self.HEADS * self.HEAD, bias=False)
        self.out = nn.Linear(self.HEADS * self.HEAD, width, bias=False)
        self.score = nn.Linear(width, 4, bias=False)
        self.several = nn.Linear(width, 1)

    def forward(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (heads(part, self.HEADS) for part in self.qkv(h).chunk(3, dim=-1))
        h = h + self.out(joined(F.scaled_dot_product_attention(q, k, v, attn_mask=closing(mask, h.dtype))))
        scores = self.score(h).transpose(1, 2) + closing(mask, h.dtype)[:, 0]
        mean = h.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return scores.softmax(-1), self.several(mean).squeeze(1)


class Collage(nn.Module):
    """Two things in five places. A place: scale and shift by x and y, and the logit of its opacity."""

    SHOWN, HIDDEN = (1, 1, 0, 1, 1), 32

    def __init__(self, width: int, word_dim: int, side: int):
        super().__init__()
        self.finder = Finder(width)
        self.named = nn.Linear(word_dim, Memory.KEY, bias=False)
        self.of_things = nn.Linear(4 * side, self.HIDDEN)
        self.of_words = nn.Linear(width, self.HIDDEN, bias=False)
        self.place = nn.Linear(self.HIDDEN, 5 * len(self.SHOWN))

    def places(self, pictures: Tensor, pooled: Tensor) -> Tensor:
        """By how far the outlines of both pictures reach down and across, and by the prompt."""
        alpha = (pictures[:, :, -1] / 2 + 0.5).clamp(0, 1)
        reach = torch.cat([alpha.amax(3), alpha.amax(2)], dim=2).flatten(1)
        return self.place(F.silu(self.of_things(reach) + self.of_words(pooled))).unflatten(1, (len(self.SHOWN), 5))

    def board(self, pictures: Tensor, places: Tensor) -> Tensor:
        """Pictures `[B, 2, C, G, G]`, premultiplied, in [-1, 1], alpha last: one picture `[B, C, G, G]`."""
        board = torch.zeros_like(pictures[:, 0])
        for shown, (x_scale, y_scale, x, y, opacity) in zip(self.SHOWN, places.permute(1, 2, 0)):
            layer = torch.einsum("byh,bchw,bxw->bcyx", moving(y_scale, y, board.shape[2]), pictures[:, shown] / 2 + 0.5,
                                 moving(x_scale, x, board.shape[3]))
            layer = layer * opacity.sigmoid()[:, None, None, None]
            board = layer + (1 - layer[:, -1:].clamp(0, 1)) * board
        return board * 2 - 1


def moving(scale: Tensor, shift: Tensor, size: int) -> Tensor:
    """`[B, size, size]`: what of each pixel of a row from -1 to 1 comes to each place when u goes to scale u + shift. A
    pixel is a triangle of one pixel to each side, or wider where the row grows; where it shrinks, a pixel has less.
    """
    at = torch.linspace(-1 + 1 / size, 1 - 1 / size, size, device=scale.device)
    width = scale.abs().clamp(min=1)[:, None, None]
    distance = (at[:, None] - (scale[:, None] * at + shift[:, None])[:, None, :]).abs() * size / 2
    return (1 - distance / width).relu() * scale.abs().clamp(max=1)[:, None, None]


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
        self.collage = Collage(width, sizes["word_dim"], sizes["sketch_shape"][0]) if sizes.get("collage") else None

    def forward(self, vectors: Tensor, mask: Tensor) -> Condition:
        h = self.project(vectors) + self.positions[: vectors.shape[1]]
        for block in self.blocks:
            h = block(h, mask)
        h = self.norm(h).masked_fill(~mask[..., None], 0)
        pooled = self.pool(h.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
        sketch = self.sketch(pooled) if self.sketch is not None else None
        if self.collage is not None:
            sketch = self.with_several(sketch, vectors, h, mask, pooled)
        if sketch is not None:
            sketch = sketch * mask.any(1)[:, None, None, None]
        return Condition(h, mask, pooled, sketch)

    def with_several(self, sketch: Tensor, vectors: Tensor, h: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        """The sketch of one thing, or the collage of two, by as much as the prompt tells of several."""
        maps, several = self.collage.finder(h, mask)
        names, ways = maps[:, :2], maps[:, 2:]
        query = self.sketch.memory.query(self.pool(names @ h)) + self.collage.named(names @ vectors)
        pictures = self.sketch.picture(self.sketch.changed(self.sketch.memory.answer(query), self.pool(ways @ h)))
        laid = self.collage.board(pictures, self.collage.places(pictures, pooled))
        return torch.lerp(sketch, laid, several.sigmoid()[:, None, None, None])
