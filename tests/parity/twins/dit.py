"""The diffusion transformer (Peebles & Xie 2023) with RMSNorm for LayerNorm and SiLU for GELU, over any
mixer.

    c = silu(MLP(sinusoids(t)) + step(h) + label);  (scale, shift, gate) twice = W c
    h = h + gate mixer(norm(h) (1 + scale) + shift);  h = h + gate MLP(norm(h) (1 + scale) + shift)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import HeadNorm, Norm, StepEmbedding, fold, grid, heads, joined, sinusoids, tokens, unfold

SINUSOIDS = 256


def places(side: int, width: int) -> Tensor:
    """Sines and cosines `[side^2, width]` of the row, then of the column."""
    rates = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.outer(torch.arange(side, dtype=torch.float64), rates)
    one = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    return torch.cat([one.repeat_interleave(side, dim=0), one.repeat(side, 1)], dim=1)


class Attention(nn.Module):
    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = HeadNorm(width // count)
        self.k_norm = HeadNorm(width // count)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(part, self.count) for part in self.qkv(x).chunk(3, dim=-1))
        return self.out(joined(F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)))


class Block(nn.Module):
    def __init__(self, width: int, hidden: int, mixer: nn.Module):
        super().__init__()
        self.norm = Norm(width, affine=False)
        self.mixer = mixer
        self.film = nn.Linear(width, (6 if hidden else 3) * width)
        self.up = nn.Linear(width, hidden) if hidden else None
        self.down = nn.Linear(hidden, width) if hidden else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        parts = self.film(c)[:, None].unflatten(-1, (-1, 3, x.shape[-1])).unbind(2)
        scale, shift, gate = parts[0].unbind(-2)
        x = x + gate * self.mixer(self.norm(x) * (1 + scale) + shift)
        if self.up is not None:
            scale, shift, gate = parts[1].unbind(-2)
            x = x + gate * self.down(F.silu(self.up(self.norm(x) * (1 + scale) + shift)))
        return x


class PatchSequence(nn.Module):
    """Prediction `[B, C, S, S]` from x `[B, C, S, S]`, t `[B]` and labels `[B]`; label `classes` is the null.
    """

    def __init__(self, sizes: dict, mixers: list[nn.Module]):
        super().__init__()
        self.patch, self.classes, width = sizes["patch"], sizes["classes"], sizes["width"]
        numbers, self.side = self.patch**2 * sizes["channels"], sizes["image_size"] // self.patch
        self.stem = nn.Linear(numbers, width)
        self.register_buffer("places", places(self.side, width), persistent=False)
        self.time = nn.ModuleList([nn.Linear(SINUSOIDS, width), nn.Linear(width, width)])
        self.step = StepEmbedding(width) if sizes.get("few_step") else None
        self.labels = nn.Parameter(torch.zeros(self.classes + 1, width)) if self.classes else None
        self.blocks = nn.ModuleList(Block(width, int(sizes["mlp_ratio"] * width), mixer) for mixer in mixers)
        self.norm = Norm(width, affine=False)
        self.head_film = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, numbers)

    def encode(self, *label: Tensor) -> Tensor | None:
        return F.embedding(label[0], self.labels) if self.classes else None

    def null(self, *label: Tensor) -> Tensor | None:
        return self.encode(*(torch.full_like(one, self.classes) for one in label))

    def predict(self, x: Tensor, t: Tensor, condition: Tensor | None, step: Tensor | None = None) -> Tensor:
        c = self.time[1](F.silu(self.time[0](sinusoids(t, SINUSOIDS))))
        for part in (condition, None if step is None else self.step(step)):
            c = c if part is None else c + part
        c = F.silu(c)
        h = self.stem(tokens(fold(x, self.patch))) + self.places
        for block in self.blocks:
            h = block(h, c)
        scale, shift = self.head_film(c)[:, None].chunk(2, dim=-1)
        h = self.head(self.norm(h) * (1 + scale) + shift)
        return unfold(grid(h, self.side, self.side), self.patch)

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        return self.predict(x, t, self.encode(*label))


class DiT(PatchSequence):
    def __init__(self, sizes: dict):
        super().__init__(sizes, [Attention(sizes["width"], sizes["heads"]) for _ in range(sizes["depth"])])
