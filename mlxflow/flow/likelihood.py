"""Likelihood of a flow: log p_1(x) = log p_0(x_0) - integral over t of div v(x_t, t).

The instantaneous change of variables (Chen et al. 2018, Neural ODEs, eq. 8; Lipman et al. 2023, appendix C),
solved backwards from data to noise with the solvers of this package: the state is the flattened x
with the integrals as further columns. The divergence is exact (one vector-Jacobian product per dimension), or
Hutchinson's estimate e^T J e averaged over K probes e (Grathwohl et al. 2019, FFJORD, eq. 7-8), where each
probe is kept over the whole path: the K integrals are independent, and their spread gives the standard error.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import Path
from mlxflow.flow.solvers import STRAIGHT, Counted, Velocity, solve
from mlxflow.runtime import mx

# Beyond this the exact trace costs more than anyone would wait for.
MOST_EXACT = 4096


class Likelihood(NamedTuple):
    """log_p [B] in nats, its standard error over the probes [B] (0 if exact, NaN for one), x_0, calls."""

    log_p: mx.array
    standard_error: mx.array
    x0: mx.array
    nfe: int


class Bits(NamedTuple):
    """Bits per dimension of each image [B], their mean, and that mean's standard error over the images."""

    each: mx.array
    mean: float
    standard_error: float


def products(
    velocity: Velocity, x: mx.array, t: mx.array, directions: Sequence[mx.array]
) -> tuple[mx.array, mx.array]:
    """v(x, t) and, for each direction e (of x's shape), e^T J e for each sample: [B, ...] and [B, K]."""
    axes = tuple(range(1, x.ndim))
    columns = []
    for e in directions:
        outputs, gradients = mx.vjp(lambda y: velocity(y, t), [x], [e])
        # Evaluated one by one: all graphs at once would hold K sets of activations.
        columns.append((gradients[0] * e).sum(axes))
        mx.eval(outputs[0], columns[-1])
    return outputs[0], mx.stack(columns, axis=1)


def basis(x: mx.array) -> list[mx.array]:
    """The unit directions of x's trailing dimensions, whatever their shape, each broadcast to x's shape."""
    size = math.prod(x.shape[1:])
    if size > MOST_EXACT:
        raise MlxflowError(
            f"The exact divergence of {size} dimensions would take {size} passes a step: give probes."
        )
    unit = mx.eye(size, dtype=x.dtype)
    return [mx.broadcast_to(unit[i].reshape(1, *x.shape[1:]), x.shape) for i in range(size)]


def probes(key: mx.array, x: mx.array, count: int, kind: str = "rademacher") -> list[mx.array]:
    """`count` random directions of x's shape with identity covariance: `rademacher` (+-1) or `gaussian`."""
    if count < 1 or kind not in ("rademacher", "gaussian"):
        raise MlxflowError(f"Cannot draw {count} probes of kind '{kind}': 1 or more, rademacher or gaussian.")
    if kind == "gaussian":
        draw = mx.random.normal((count, *x.shape), dtype=x.dtype, key=key)
    else:
        draw = 2 * mx.random.bernoulli(0.5, (count, *x.shape), key=key).astype(x.dtype) - 1
    return list(draw)


def divergence(velocity: Velocity, x: mx.array, t: mx.array) -> mx.array:
    """The exact trace of dv/dx for each sample, [B]; x may have any shape [B, ...]."""
    return products(velocity, x, t, basis(x))[1].sum(1)


def log_normal(x: mx.array, std: float = 1.0) -> mx.array:
    """log N(x; 0, std^2 I) for each sample, [B]."""
    size = math.prod(x.shape[1:])
    square = mx.square(x / std).reshape(x.shape[0], -1).sum(1)
    return -0.5 * square - size * (0.5 * math.log(2 * math.pi) + math.log(std))


def log_likelihood(
    velocity: Velocity,
    x: mx.array,
    path: Path = STRAIGHT,
    *,
    key: mx.array | None = None,
    probes_count: int = 1,
    kind: str = "rademacher",
    solver: str = "dopri5",
    times: Sequence[float] = (1.0, 0.0),
    **settings,
) -> Likelihood:
    """log p(x) of data x [B, ...] under the flow; `key` None takes the exact trace, else it draws probes.

    `times` fall from the data to 0. The density at t = 0 is that of `path.start`: N(0, s(0)^2 I). For a
    network that predicts data begin a little below 1. `settings` go to the solver (rtol, atol).
    """
    directions = basis(x) if key is None else probes(key, x, probes_count, kind)
    shape, size = x.shape, math.prod(x.shape[1:])
    counted = Counted(velocity)

    def augmented(state: mx.array, t: mx.array) -> mx.array:
        u, columns = products(counted, state[:, :size].reshape(shape), t, directions)
        if key is None:
            columns = columns.sum(1, keepdims=True)
        return mx.concatenate([u.reshape(shape[0], -1), columns], axis=1)

    if times[-1] != 0:
        raise MlxflowError(f"The times of a likelihood must end at 0, not {times[-1]}.")
    columns = 1 if key is None else len(directions)
    state = mx.concatenate([x.reshape(shape[0], -1), mx.zeros((shape[0], columns), dtype=x.dtype)], axis=1)
    for step in solve(solver, augmented, state, times, **settings):
        state = step.x
    x0 = state[:, :size].reshape(shape)
    # Integrated from 1 down to 0, a column holds minus the integral from 0 to 1: log p_1 = log p_0 + column.
    integrals = state[:, size:]
    log_p = log_normal(x0, path.start(mx.ones((1,), dtype=x.dtype)).item()) + integrals.mean(1)
    if key is None:
        error = mx.zeros_like(log_p)
    elif columns == 1:
        error = mx.full(log_p.shape, math.nan)
    else:
        error = mx.sqrt(mx.var(integrals, axis=1, ddof=1) / columns)
    return Likelihood(log_p, error, x0, counted.calls)


def bits_per_dim(
    velocity: Velocity,
    images: mx.array,
    path: Path = STRAIGHT,
    *,
    key: mx.array,
    samples: int = 1,
    levels: int = 256,
    exact: bool = False,
    **settings,
) -> Bits:
    """Bits per dimension of `images` [B, ...] in [-1, 1] that hold `levels` values, 2 v / (levels - 1) - 1.

    The probability of a picture is the density's mean over its cell, of side 2 / (levels - 1), estimated by
    the mean density at `samples` uniformly dequantised copies: -log2((1/K) sum_k p(x_k)) / D + log2((levels -
    1) / 2) (as Lipman et al. 2023 report it, with K samples). More samples lower it towards the true value
    (Jensen). `settings` are those of `log_likelihood`.
    """
    if samples < 1 or levels < 2:
        raise MlxflowError(
            f"Bits per dimension need 1 or more samples and 2 or more levels, not {samples}, {levels}."
        )
    size, cell = math.prod(images.shape[1:]), 2 / (levels - 1)
    logs = []
    for k in mx.random.split(key, samples):
        dequantise, probe = mx.random.split(k)
        jitter = cell * (mx.random.uniform(shape=images.shape, key=dequantise) - 0.5)
        found = log_likelihood(
            velocity, images + jitter.astype(images.dtype), path, key=None if exact else probe, **settings
        )
        logs.append(found.log_p)
    log_p = mx.logsumexp(mx.stack(logs), axis=0) - math.log(samples)
    each = -(log_p / size + math.log(cell)) / math.log(2)
    error = math.sqrt(mx.var(each, ddof=1).item() / each.size) if each.size > 1 else math.nan
    return Bits(each, each.mean().item(), error)
