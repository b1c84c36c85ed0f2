"""Selective state spaces, as the recurrence that defines them (Dao & Gu 2024, eq. 11-16), a token at a time.

    H_i = exp(-d_i r) H_(i-1) + B_i (d_i x_i)^T,   y_i = C_i^T H_i + D x_i,   d = softplus(W x + b),   r =
    exp(log_rate)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import Norm
from .dit import PatchSequence

# Places before and after its own that a token's convolution sees, by the number of directions.
REACH = {1: (3, 0), 2: (1, 1)}


class Direction(nn.Module):
    """From the first token to the last; x `[B, L, inner]`."""

    def __init__(self, sizes: dict, inner: int):
        super().__init__()
        self.count = sizes["heads"]
        self.select = nn.Linear(inner, 2 * sizes["state"], bias=False)
        self.project_step = nn.Linear(inner, self.count, bias=False)
        self.step_bias = nn.Parameter(torch.zeros(self.count))
        self.log_rate = nn.Parameter(torch.zeros(self.count))
        self.through = nn.Parameter(torch.ones(self.count))

    def forward(self, x: Tensor) -> Tensor:
        step = F.softplus(self.project_step(x) + self.step_bias)
        keep = torch.exp(-step * self.log_rate.exp())
        b, c = self.select(x).chunk(2, dim=-1)
        x = x.unflatten(-1, (self.count, -1))
        taken = torch.einsum("bls,blhp->lbhsp", b, step[..., None] * x)
        state, ys = torch.zeros_like(taken[0]), []
        for i in range(x.shape[1]):
            state = keep[:, i, :, None, None] * state + taken[i]
            ys.append(torch.einsum("bs,bhsp->bhp", c[:, i], state))
        return (torch.stack(ys, dim=1) + self.through[:, None] * x).flatten(2)


class Mixer(nn.Module):
    def __init__(self, sizes: dict):
        super().__init__()
        inner = int(sizes["expand"] * sizes["width"])
        self.inside = nn.Linear(sizes["width"], 2 * inner, bias=False)
        self.reach = REACH[sizes["directions"]]
        # [places, channels]; conv1d keeps depth-wise kernels as [channels, 1, places].
        self.local = nn.Parameter(torch.zeros(1 + sum(self.reach), inner))
        self.local_bias = nn.Parameter(torch.zeros(inner))
        self.directions = nn.ModuleList(Direction(sizes, inner) for _ in range(sizes["directions"]))
        self.norm = Norm(inner)
        self.out = nn.Linear(inner, sizes["width"])

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.inside(x).chunk(2, dim=-1)
        along = F.pad(u.transpose(1, 2), self.reach)
        u = F.conv1d(along, self.local.t()[:, None], self.local_bias, groups=u.shape[-1])
        u = F.silu(u).transpose(1, 2)
        y = self.directions[0](u)
        for backwards in self.directions[1:]:
            y = y + backwards(u.flip(1)).flip(1)
        return self.out(self.norm(y) * F.silu(gate))


class Mamba(PatchSequence):
    def __init__(self, sizes: dict):
        super().__init__(sizes, [Mixer(sizes) for _ in range(sizes["depth"])])
