"""Building blocks that every network shares: activations, normalisation, attention, resampling, embeddings.

Two operations are chosen by back end. MLX's CPU kernels call libm for every exp (15-30 ns an element), so a
native SiLU costs as much as a 3x3 convolution and a softmax as much as the products around it. On the CPU
both are written as rational or polynomial forms that `mx.compile` fuses (about 2 ns an element, errors near
float32 rounding), each with its own gradient; on Metal and CUDA MLX's own kernels are used. `plain_operations` asks
for MLX's own everywhere.
"""

import math
from contextlib import contextmanager

import mlx.nn as nn

from mlxflow.networks.winograd import winograd_conv3x3
from mlxflow.runtime import mx


_plain = False


@contextmanager
def plain_operations():
    """Inside, networks are traced with operations that MLX itself has: no form for the CPU, no gradient of our own.

    Such a graph can be exported, and is as good for one device as for another.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def plain() -> bool:
    """Whether this is within `plain_operations`."""
    return _plain


def _on_cpu() -> bool:
    return not _plain and mx.default_device() == mx.Device(mx.cpu)


# Minimax coefficients of tanh as x P(x^2) / Q(x^2) on [-7.9, 7.9], as Eigen publishes them.
_TANH_P = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
           1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_TANH_LIMIT = 7.90531110763549805


def _horner(coefficients: tuple[float, ...], z: mx.array) -> mx.array:
    value = coefficients[0]
    for c in coefficients[1:]:
        value = value * z + c
    return value


def rational_sigmoid(x: mx.array) -> mx.array:
    """Logistic sigmoid by 0.5 + 0.5 tanh(x / 2) with a rational tanh; absolute error below 3e-7."""
    y = mx.clip(0.5 * x, -_TANH_LIMIT, _TANH_LIMIT)
    z = y * y
    return 0.5 + 0.5 * (y * _horner(_TANH_P, z) / _horner(_TANH_Q, z))


@mx.custom_function
def rational_silu(x: mx.array) -> mx.array:
    """SiLU, x sigmoid(x), with the rational sigmoid."""
    return x * rational_sigmoid(x)


@rational_silu.vjp
def _rational_silu_vjp(x, cotangent, _):
    s = rational_sigmoid(x)
    return cotangent * (s * (1 + x * (1 - s)))


def silu(x: mx.array) -> mx.array:
    """SiLU of any shape; the form is chosen by the default device."""
    return rational_silu(x) if _on_cpu() else nn.silu(x)


def polynomial_exp(x: mx.array) -> mx.array:
    """exp(x) for x <= 0, with an absolute error below 3e-7; exactly 0 from -80 down, so that a closed key is closed.

    exp(x / 256) - 1 by its Taylor series, then squared eight times in the form (1 + y)^2 - 1 = y (2 + y),
    which keeps the small y's precision.
    """
    z = mx.maximum(x, -80.0) * (1 / 256)
    y = z * _horner((1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0), z)
    for _ in range(8):
        y = y * (2 + y)
    return 1 + y


@mx.custom_function
def polynomial_softmax(scores: mx.array) -> mx.array:
    """Softmax over the last axis with the polynomial exp."""
    e = polynomial_exp(scores - mx.max(scores, axis=-1, keepdims=True))
    return e / mx.sum(e, axis=-1, keepdims=True)


@polynomial_softmax.vjp
def _polynomial_softmax_vjp(_, cotangent, p):
    g = cotangent * p
    return g - p * mx.sum(g, axis=-1, keepdims=True)


def softmax(scores: mx.array) -> mx.array:
    """Softmax over the last axis; the form is chosen by the default device."""
    return polynomial_softmax(scores) if _on_cpu() else mx.softmax(scores, axis=-1, precise=True)


def split_heads(x: mx.array, heads: int) -> mx.array:
    """`[B, N, heads * D]` to `[B, heads, N, D]`."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attention(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None) -> mx.array:
    """Scaled dot-product attention over heads.

    q is `[B, H, N, D]`, k and v are `[B, H, M, D]`; bias broadcasts to `[B, H, N, M]` and is added to the
    scores (large negative values close a key; at least one key must stay open). Returns `[B, N, H * D]`.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    if _on_cpu():
        scores = (q * scale) @ k.swapaxes(-1, -2)
        out = softmax(scores if bias is None else scores + bias) @ v
    else:
        mask = None if bias is None else bias.astype(q.dtype)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    batch, heads, n, d = out.shape
    return out.transpose(0, 2, 1, 3).reshape(batch, n, heads * d)


CLOSED = -1e9
"""Added to the score of a masked key: exp() of it is zero in every float type that MLX trains in."""


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis: weight * x / sqrt(mean(x^2) + eps)."""

    def __init__(self, dims: int, eps: float = 1e-6, affine: bool = True):
        super().__init__()
        self.eps = eps
        if affine:
            self.weight = mx.ones((dims,))

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.get("weight"), self.eps)


class Conv3x3(nn.Conv2d):
    """3x3 convolution that keeps the size: x `[B, H, W, I]` to `[B, H, W, O]`.

    On the CPU a training batch goes through Winograd's form, a quarter faster with its gradients; a small batch does
    not repay the transform of the kernel.
    """

    LEAST_BATCH = 16

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        b, h, w, _ = x.shape
        even = h % 2 == w % 2 == 0
        if _on_cpu() and even and b >= self.LEAST_BATCH and b * h * w >= 2 * self.weight.shape[0]:
            return winograd_conv3x3(x, self.weight) + self.bias
        return super().__call__(x)


def timestep_embedding(t: mx.array, dims: int, scale: float = 1000.0, max_period: float = 10_000.0) -> mx.array:
    """Sinusoidal embedding `[B, dims]` of times t `[B]` in [0, 1] (Vaswani et al. 2017, section 3.5).

    t is scaled to the 0-1000 range that the 10,000-period frequencies were chosen for.
    """
    half = dims // 2
    frequencies = mx.exp(mx.arange(half, dtype=mx.float32) * (-math.log(max_period) / half))
    angles = (scale * t.astype(mx.float32))[:, None] * frequencies[None]
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


class StepEmbedding(nn.Module):
    """Embedding `[B, dims]` of step sizes h `[B]` in [0, 1], for networks that predict over a step (flow/fewstep.py).

        W2 silu(W1 f(h)),   f(h) = sin(w h), 1 - cos(w h) for 16 w from 1/2 to 100

    No bias, and f(0) = 0: at h = 0 it is exactly nothing, whatever has been learnt. W2 starts at zero, so that a
    network which gets it predicts for every h, bit for bit, what it predicted without.
    """

    FREQUENCIES = 16

    def __init__(self, dims: int):
        super().__init__()
        self.up = nn.Linear(2 * self.FREQUENCIES, dims, bias=False)
        self.down = zero(nn.Linear(dims, dims, bias=False))

    def __call__(self, h: mx.array) -> mx.array:
        rates = mx.exp(mx.linspace(math.log(0.5), math.log(100.0), self.FREQUENCIES))
        angles = h.astype(mx.float32)[:, None] * rates
        features = mx.concatenate([mx.sin(angles), 1 - mx.cos(angles)], axis=-1)
        return self.down(silu(self.up(features.astype(self.up.weight.dtype))))


def space_to_depth(x: mx.array, block: int) -> mx.array:
    """`[B, H, W, C]` to `[B, H / block, W / block, block * block * C]`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: mx.array, block: int) -> mx.array:
    """The inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    c //= block * block
    x = x.reshape(b, h, w, block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * block, w * block, c)


def zero(layer: nn.Module) -> nn.Module:
    """Sets a layer's parameters to zero: a residual branch that starts silent."""
    layer.update({name: mx.zeros_like(p) for name, p in layer.parameters().items()})
    return layer
