"""What several twins use: sinusoids, patches, layers for maps, and the layers whose defaults torch has
otherwise.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# nn.RMSNorm's own default is the smallest step of the type, nn.GroupNorm's 1e-5.
EPS = 1e-6


def sinusoids(t: Tensor, dims: int) -> Tensor:
    """cos(1000 t w_k), then sin: w_k = 10000^(-k / half), t `[B]` to `[B, dims]`."""
    half = dims // 2
    rates = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = torch.outer(1000 * t, rates)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def fold(x: Tensor, block: int) -> Tensor:
    """Blocks of pixels into channels. torch puts the channel before the place in the block; here it comes
    after.
    """
    b, c, h, w = x.shape
    x = F.pixel_unshuffle(x, block).view(b, c, block**2, h // block, w // block)
    return x.transpose(1, 2).reshape(b, -1, h // block, w // block)


def unfold(x: Tensor, block: int) -> Tensor:
    """The inverse of `fold`."""
    b, c, h, w = x.shape
    x = x.view(b, block**2, c // block**2, h, w).transpose(1, 2).reshape(b, c, h, w)
    return F.pixel_shuffle(x, block)


def tokens(x: Tensor) -> Tensor:
    """A map `[B, C, H, W]` as tokens `[B, H W, C]`, row by row."""
    return x.flatten(2).transpose(1, 2)


def grid(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `tokens`."""
    return x.transpose(1, 2).unflatten(2, (height, width))


class Pointwise(nn.Linear):
    """A matrix at every place of a map: a 1x1 convolution whose kernel is stored as a matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class Norm(nn.RMSNorm):
    """Root-mean-square normalisation over the last axis."""

    def __init__(self, width: int, affine: bool = True):
        super().__init__(width, eps=EPS, elementwise_affine=affine)


class HeadNorm(Norm):
    """`Norm` of queries or keys a head: its output `[B, heads, N, D]` is no map, though it has four axes."""


class MapNorm(Norm):
    """`Norm` over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class StepEmbedding(nn.Module):
    """W2 silu(W1 f(h)), f(h) = sin(w h), 1 - cos(w h) for 16 w from 1/2 to 100, equally far apart in their
    logarithm.
    """

    def __init__(self, width: int, rates: int = 16):
        super().__init__()
        self.rates = rates
        self.up = nn.Linear(2 * rates, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        rates = torch.logspace(math.log10(0.5), math.log10(100.0), self.rates, device=h.device)
        angles = torch.outer(h, rates)
        return self.down(F.silu(self.up(torch.cat([angles.sin(), 1 - angles.cos()], dim=1))))


def heads(x: Tensor, count: int) -> Tensor:
    """`[B, N, heads D]` to `[B, heads, N, D]`."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """The inverse of `heads`."""
    return x.transpose(1, 2).flatten(2)


def closing(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores over keys `[B, M]` of which mask is True for the open ones: `[B, 1, 1, M]`.

    The least finite number where a key is closed, not -inf: where all are, attention is their mean and not
    NaN.
    """
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]
