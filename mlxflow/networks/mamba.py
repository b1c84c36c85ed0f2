"""Selective state spaces over the patches of an image, in both directions or in one.

Mamba-2's form (Dao & Gu 2024, "Transformers are SSMs", section 2 and eq. 11-16): a head's state H [S, P] decays by
a number and takes in an outer product, all three depending on the input:

    H_i = a_i H_(i-1) + B_i (d_i x_i)^T        y_i = C_i^T H_i + D x_i
    a_i = exp(-d_i r),  d_i = softplus(W x_i + b) > 0,  r > 0 a number a head;  B_i, C_i [S] are shared by the heads

Unrolled, y_i = sum_(j <= i) (prod_(j < k <= i) a_k) (C_i . B_j) d_j x_j, so a chunk of Q tokens is a few matrix
products with a triangular matrix of decays, and only the states at the chunks' ends are a recurrence: `scan`.
`scan_sequential` is the definition, token by token, and the tests' oracle.

The mixer of a block:  u, z = W h;  u = silu(local(u));  y = sum over directions of the scan of u;  W (norm(y) silu(z)).
`local` is a convolution along the tokens, a channel each: with one direction over this token and the three before it,
as in Mamba; with two over this token and its neighbours. The second direction reads the tokens from the last to the
first with B, C, d, r and D of its own.
"""

from dataclasses import dataclass
from functools import cache

import mlx.nn as nn

from mlxflow.networks.blocks import RMSNorm, _on_cpu, plain, polynomial_exp, silu
from mlxflow.networks.dit import PatchSequence, check_patches
from mlxflow.runtime import mx

# Places that `local` sees, by the number of directions, relative to its own.
PLACES = {1: (-3, -2, -1, 0), 2: (-1, 0, 1)}


@dataclass(frozen=True)
class MambaConfig:
    """Sizes. The inner width is expand * width in `heads` heads of `state` x (inner / heads) numbers; mlp_ratio 0
    leaves the MLP out; few_step as in networks/dit.py."""

    image_size: int = 32
    channels: int = 3
    patch: int = 2
    width: int = 192
    depth: int = 6
    heads: int = 6
    state: int = 16
    expand: float = 1.5
    chunk: int = 16
    directions: int = 2
    mlp_ratio: float = 2.0
    classes: int = 0
    few_step: bool = False

    def __post_init__(self):
        check_patches(self)
        if self.heads < 1 or int(self.expand * self.width) % self.heads:
            raise ValueError(f"the inner width {int(self.expand * self.width)} is not a multiple of heads {self.heads}")
        if self.directions not in (1, 2):
            raise ValueError(f"directions must be 1 or 2, not {self.directions}")
        if self.state < 1 or self.chunk < 1:
            raise ValueError("state and chunk must be 1 or more")


PRESETS = {
    "laptop": {"width": 192, "depth": 6, "heads": 6},
    # One raster scan and no MLP, as in the comparison that this one repeats.
    "one-direction": {"width": 192, "depth": 8, "heads": 6, "expand": 2.0, "directions": 1, "mlp_ratio": 0.0},
}


@mx.custom_function
def _polynomial_decay(x: mx.array) -> mx.array:
    return polynomial_exp(x)


@_polynomial_decay.vjp
def _polynomial_decay_vjp(_, cotangent, y):
    return cotangent * y


def decayed(x: mx.array) -> mx.array:
    """exp(x) for x <= 0; the form is chosen by the default device, as in networks/blocks.py."""
    return _polynomial_decay(x) if _on_cpu() else mx.exp(x)


def scan_sequential(x: mx.array, decay: mx.array, b: mx.array, c: mx.array) -> mx.array:
    """The recurrence H_i = exp(decay_i) H_(i-1) + b_i x_i^T, y_i = c_i^T H_i, one token after the other.

    x `[B, L, H, P]` (times its step already), decay `[B, L, H]` <= 0, b and c `[B, L, S]`; returns `[B, L, H, P]`.
    """
    batch, length, heads, width = x.shape
    state = mx.zeros((batch, heads, b.shape[-1], width))
    ys = []
    for i in range(length):
        state = mx.exp(decay[:, i])[..., None, None] * state + b[:, i, None, :, None] * x[:, i, :, None, :]
        ys.append((c[:, i, None, None, :] @ state)[:, :, 0])
    return mx.stack(ys, axis=1)


def scan(x: mx.array, decay: mx.array, b: mx.array, c: mx.array, chunk: int = 16) -> mx.array:
    """`scan_sequential` as matrix products within chunks of tokens (Dao & Gu 2024, section 6).

    With s the running sum of decay in a chunk: y_i = sum_(j<=i) exp(s_i - s_j) (c_i . b_j) x_j + exp(s_i) c_i^T H,
    H the state before the chunk, then H <- exp(s_Q) H + sum_j exp(s_Q - s_j) b_j x_j^T. No exponent is above 0.
    """
    batch, length, heads, width = x.shape
    chunk = min(chunk, length)
    count = -(-length // chunk)
    rest = count * chunk - length
    if rest:  # tokens of nothing, which decay nothing
        x, decay, b, c = (mx.pad(v, [(0, 0), (0, rest)] + [(0, 0)] * (v.ndim - 2)) for v in (x, decay, b, c))
    x = x.reshape(batch, count, chunk, heads, width).transpose(0, 1, 3, 2, 4)  # [B, N, H, Q, P]
    b, c = (v.reshape(batch, count, 1, chunk, -1) for v in (b, c))  # [B, N, 1, Q, S]
    s = mx.cumsum(decay.reshape(batch, count, chunk, heads).swapaxes(2, 3), axis=-1)  # [B, N, H, Q]
    lower = mx.tril(mx.ones((chunk, chunk), dtype=mx.bool_))
    # Closed before exp, where s_i - s_j > 0 for j > i could overflow.
    weights = mx.where(lower, decayed(mx.where(lower, s[..., :, None] - s[..., None, :], 0.0)), 0.0)
    y = (weights * (c @ b.swapaxes(-1, -2))) @ x
    if count > 1:
        last = s[..., -1:]
        taken = (b.swapaxes(-1, -2) * decayed(last - s)[..., None, :]) @ x  # [B, N, H, S, P]
        keep = decayed(last)[..., None]  # [B, N, H, 1, 1]
        state, before = mx.zeros_like(taken[:, 0]), []
        for i in range(count):
            before.append(state)
            state = keep[:, i] * state + taken[:, i]
        y = y + decayed(s)[..., None] * (c @ mx.stack(before, axis=1))
    return y.transpose(0, 1, 3, 2, 4).reshape(batch, count * chunk, heads, width)[:, :length]


def shifted(x: mx.array, places: tuple[int, ...]) -> list[mx.array]:
    """x `[B, L, D]` moved so that entry i is x_(i + place), for each place; zeros come in at the ends."""
    before, after, length = -min(0, *places), max(0, *places), x.shape[1]
    padded = mx.pad(x, [(0, 0), (before, after), (0, 0)])
    return [padded[:, before + p:before + p + length] for p in places]


def convolved(u: mx.array, w: mx.array, places: tuple[int, ...]) -> mx.array:
    """sum_k w_k u_(i + places[k]) of u `[B, L, D]`, w `[K, D]`."""
    return sum(w[k] * part for k, part in enumerate(shifted(u, places)))


@cache
def local_convolution(places: tuple[int, ...]):
    """`convolved` with a gradient of its own: MLX's would scatter slices."""
    convolve = mx.custom_function(lambda u, w: convolved(u, w, places))

    @convolve.vjp
    def _(primals, cotangent, _):
        u, w = primals
        back = sum(w[k] * part for k, part in enumerate(shifted(cotangent, tuple(-p for p in places))))
        return back, mx.stack([(cotangent * part).sum(axis=(0, 1)) for part in shifted(u, places)])

    return convolve


class Direction(nn.Module):
    """One selective scan over u `[B, L, inner]`, from the first token to the last."""

    def __init__(self, config: MambaConfig, inner: int):
        super().__init__()
        self.heads, self.chunk = config.heads, config.chunk
        self.select = nn.Linear(inner, 2 * config.state, bias=False)
        self.project_step = nn.Linear(inner, config.heads, bias=False)
        # Steps from 0.01 to 0.1 and rates from 1 to 16, as Mamba begins with: memories of 1 to 100 tokens.
        step = mx.exp(mx.linspace(mx.log(mx.array(0.01)), mx.log(mx.array(0.1)), config.heads))
        self.step_bias = step + mx.log(-mx.expm1(-step))
        self.log_rate = mx.log(mx.linspace(1.0, 16.0, config.heads))
        self.through = mx.ones((config.heads,))

    def __call__(self, u: mx.array) -> mx.array:
        b, c = mx.split(self.select(u).astype(mx.float32), 2, axis=-1)
        step = nn.softplus((self.project_step(u) + self.step_bias).astype(mx.float32))  # [B, L, H]
        x = u.reshape(*u.shape[:2], self.heads, -1)
        decay = -step * mx.exp(self.log_rate.astype(mx.float32))
        y = scan(x.astype(mx.float32) * step[..., None], decay, b, c, self.chunk).astype(u.dtype)
        return (y + self.through[:, None] * x).reshape(u.shape)


class Mixer(nn.Module):
    """The state-space part of a block, over `[B, L, D]`."""

    def __init__(self, config: MambaConfig):
        super().__init__()
        inner = int(config.expand * config.width)
        self.inside = nn.Linear(config.width, 2 * inner, bias=False)
        self.places = PLACES[config.directions]
        self.local = mx.random.uniform(-0.5, 0.5, (len(self.places), inner))
        self.local_bias = mx.zeros((inner,))
        self.directions = [Direction(config, inner) for _ in range(config.directions)]
        self.norm = RMSNorm(inner)
        self.out = nn.Linear(inner, config.width)

    def __call__(self, x: mx.array) -> mx.array:
        u, gate = mx.split(self.inside(x), 2, axis=-1)
        local = convolved(u, self.local, self.places) if plain() else local_convolution(self.places)(u, self.local)
        u = silu(local + self.local_bias)
        y = self.directions[0](u)
        if len(self.directions) == 2:
            y = y + self.directions[1](u[:, ::-1])[:, ::-1]
        return self.out(self.norm(y) * silu(gate))


class Mamba(PatchSequence):
    """The state-space network; its stem, conditioning, MLPs and head are DiT's."""

    kind = "mamba"

    def __init__(self, config: MambaConfig):
        super().__init__(config, [Mixer(config) for _ in range(config.depth)])
