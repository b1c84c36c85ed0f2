"""A sketch of several things: what a prompt names is looked up thing by thing and laid out on one small picture.

    a_k, b_k = softmax over the words          for each of two things: the words that name it, and those that say how
    thing_k  = the sketch's memory, asked with the words that name it, changed by those that say how
    layers   = thing 2, thing 2, thing 1, thing 2, thing 2, from the back, each scaled, moved and as opaque as the
               prompt and the things want it; a layer of negative scale is a mirror image
    sketch   = (1 - s) plain + s layers        s in (0, 1): whether the prompt tells of several things

One memory read can't say "a cat on a rocket": its softmax has to choose one slot, or mix two into a blur. A layer that
is moved by numbers can be learnt from a few placements of many things, where a matrix from what is meant to pixels
would have to see every thing in every place. Where s is 0 the sketch is what it was without this module.
"""

import mlx.nn as nn

from mlxflow.networks.blocks import CLOSED, attention, silu, split_heads, zero
from mlxflow.runtime import mx

# From the back: which thing a layer shows (0 or 1), and its first scale and shift by x and by y; then its opacity's logit.
# None starts where it would stay: at scale 1 and shift 0 every pixel lies on another, where splat has no slope.
LAYERS = ((1, (0.55, 0.55, 0.1, 0.0), -2.0), (1, (-0.55, 0.55, -0.1, 0.0), -2.0), (0, (0.75, 0.75, -0.15, -0.1), 3.0),
          (1, (0.5, 0.5, 0.35, 0.35), 0.0), (1, (0.5, 0.5, -0.35, 0.3), -2.0))
THINGS = 2
# The logit of several things in a new network: it begins with sketches of one.
ONE_THING = -4.0


class Finder(nn.Module):
    """Which words name each thing and which say how it is: tokens `[B, L, D]` and mask `[B, L]` to maps `[B, 4, L]`
    that sum to 1, those of names first, and the logit `[B]` of there being several things.

    One layer of attention lets a word know its neighbours: the first thing is what stands before "and".
    """

    HEADS, HEAD = 2, 12

    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * self.HEADS * self.HEAD, bias=False)
        self.out = zero(nn.Linear(self.HEADS * self.HEAD, width, bias=False))
        self.score = nn.Linear(width, 2 * THINGS, bias=False)
        self.several = zero(nn.Linear(width, 1))
        self.several.bias = mx.array([ONE_THING])

    def __call__(self, tokens: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
        bias = mx.where(mask, 0.0, CLOSED).astype(tokens.dtype)
        q, k, v = (split_heads(part, self.HEADS) for part in mx.split(self.qkv(tokens), 3, axis=-1))
        x = tokens + self.out(attention(q, k, v, bias[:, None, None, :]))
        present = mask.astype(tokens.dtype)[:, None, :]
        mean = (present @ x)[:, 0] / mx.maximum(present.sum(axis=-1), 1.0)
        maps = mx.softmax(self.score(x).swapaxes(1, 2) + bias[:, None, :], axis=-1, precise=True)
        return maps, self.several(mean)[:, 0]


def splat(scale: mx.array, shift: mx.array, size: int) -> mx.array:
    """Matrices `[B, size, size]` that scale and move a row of pixels: out = M in, for scale and shift `[B]`.

    A row reaches from -1 to 1; the pixel at u goes to scale u + shift, spread as a triangle one pixel wide to each side,
    or as wide as it has become. Scale 1 and shift 0 are the identity, a scale below 0 mirrors, what leaves the row is gone.
    """
    centres = (mx.arange(size) + 0.5) * (2 / size) - 1
    goes = scale[:, None] * centres + shift[:, None]
    wide = mx.abs(scale)[:, None, None]
    far = mx.abs(centres[:, None] - goes[:, None, :]) * (size / 2)
    return mx.minimum(wide, 1.0) * mx.maximum(1 - far / mx.maximum(wide, 1.0), 0.0)


class Collage(nn.Module):
    """Lays out the things of prompts; `width` is the text encoder's, `word_dim` its word vectors', `key` the size of a query
    of the memory that knows the things, `side` that of the sketch."""

    HIDDEN = 32

    def __init__(self, width: int, word_dim: int, key: int, side: int):
        super().__init__()
        self.finder = Finder(width)
        self.named = zero(nn.Linear(word_dim, key, bias=False))
        self.of_things = nn.Linear(THINGS * 2 * side, self.HIDDEN)
        self.of_words = nn.Linear(width, self.HIDDEN, bias=False)
        self.place = zero(nn.Linear(self.HIDDEN, 5 * len(LAYERS)))
        self.place.bias = mx.array([number for _, first, opaque in LAYERS for number in (*first, opaque)])

    def find(self, vectors: mx.array, tokens: mx.array, mask: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """For each prompt and thing the mean tokens that name it `[B, 2, D]`, what their word vectors `[B, L, E]` add
        to the memory's query `[B, 2, KEY]`, the mean tokens that say how `[B, 2, D]`; and the logit of several `[B]`."""
        maps, several = self.finder(tokens, mask)
        name, how = mx.split(maps, 2, axis=1)
        return name @ tokens, self.named(name @ vectors), how @ tokens, several

    def layout(self, things: mx.array, pooled: mx.array) -> mx.array:
        """`[B, layers, 5]`: scale and shift by x and by y, and the logit of the opacity, from the things `[B, 2, G, G, C]`,
        of which only the reach of their outlines counts, and the prompt `[B, D]`."""
        alpha = mx.clip((things[..., -1] + 1) / 2, 0.0, 1.0)
        reach = mx.concatenate([alpha.max(axis=3), alpha.max(axis=2)], axis=2).reshape(len(things), -1)
        placed = self.place(silu(self.of_things(reach) + self.of_words(pooled)))
        return placed.reshape(len(things), len(LAYERS), 5)

    def lay(self, things: mx.array, layout: mx.array) -> mx.array:
        """Premultiplied pictures `[B, 2, G, G, C]` in [-1, 1], alpha last, over each other: `[B, G, G, C]`."""
        b, _, size, _, channels = things.shape
        things, board = (things + 1) / 2, None
        for i, (which, _, _) in enumerate(LAYERS):
            scale_x, scale_y, shift_x, shift_y, opacity = (layout[:, i, k] for k in range(5))
            rows, columns = splat(scale_y, shift_y, size), splat(scale_x, shift_x, size)
            layer = (rows @ things[:, which].reshape(b, size, -1)).reshape(b, size, size, channels)
            layer = (columns[:, None] @ layer) * mx.sigmoid(opacity)[:, None, None, None]
            board = layer if board is None else layer + board * (1 - mx.clip(layer[..., -1:], 0.0, 1.0))
        return 2 * board - 1
