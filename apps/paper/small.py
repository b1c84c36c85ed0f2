"""A small network for two-dimensional data, and the loop that trains it: a page where the package has a
machine.

    e = silu(MLP(sinusoids(time_scale t)) + step embedding)
    h = W f(x),    h = h + W silu(h (1 + scale(e)) + shift(e))

f(x) is x, and for sharp edges also sin(k pi x) and cos(k pi x) of each coordinate (Tancik et al. 2020, "Fourier
Features Let Networks Learn High Frequency Functions in Low Dimensional Domains").
"""

import math
import time
from collections.abc import Sequence

import numpy as np

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from mlxflow.networks.blocks import StepEmbedding, silu, timestep_embedding  # noqa: E402
from mlxflow.training import ema  # noqa: E402
from mlxflow.training.optimizers import clipped, init_moments, learning_rate_at, update  # noqa: E402

WIDTH, DEPTH, SINUSOIDS = 128, 3, 64


class Net(nn.Module):
    """velocity `[B, 2]` of x `[B, 2]`, t `[B]` and, for few-step models, the step h `[B]`; `waves` are the k of f(x)."""

    def __init__(self, time_scale: float = 1000.0, waves: Sequence[int] = ()):
        super().__init__()
        self.time_scale, self.waves = time_scale, tuple(waves)
        self.time = [nn.Linear(SINUSOIDS, WIDTH), nn.Linear(WIDTH, WIDTH)]
        self.step = StepEmbedding(WIDTH)
        self.stem = nn.Linear(2 + 4 * len(self.waves), WIDTH)
        self.films = [nn.Linear(WIDTH, 2 * WIDTH) for _ in range(DEPTH)]
        self.layers = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)]
        self.head = nn.Linear(WIDTH, 2)

    def __call__(self, x, t, h=None):
        embedding = self.time[1](silu(self.time[0](timestep_embedding(t, SINUSOIDS, self.time_scale))))
        embedding = silu(embedding if h is None else embedding + self.step(h))
        waves = (f(k * math.pi * x) for k in self.waves for f in (mx.sin, mx.cos))
        y = self.stem(mx.concatenate([x, *waves], axis=1))
        for film, layer in zip(self.films, self.layers):
            scale, shift = mx.split(film(embedding), 2, axis=-1)
            y = y + layer(silu(y * (1 + scale) + shift))
        return self.head(y)


def fit(net: nn.Module, loss, draw, steps: int, peak: float = 1e-3) -> float:
    """Trains net with loss(*draw(numpy Generator, key)) and leaves its averaged weights; milliseconds of
    processor time a step."""

    def of(weights, *arrays):
        net.update(tree_unflatten(list(weights.items())))
        return loss(*arrays)

    @mx.compile
    def step(weights, average, moments, rate, number, decay, *arrays):
        value, gradient = mx.value_and_grad(of)(weights, *arrays)
        weights, moments = update(weights, moments, clipped(gradient, 1.0)[0], rate, number, 0.0)
        return value, weights, ema.updated(average, weights, decay), moments

    weights = dict(tree_flatten(net.parameters()))
    average, moments, generator, spent = weights, init_moments("adamw", weights), np.random.default_rng(1), []
    for i in range(steps):
        start = time.process_time()
        rate = learning_rate_at(i, peak, 100, "cosine", steps)
        value, weights, average, moments = step(
            weights,
            average,
            moments,
            mx.array(rate),
            mx.array(i + 1.0),
            mx.array(ema.decay_at(0.999, i)),
            *draw(generator, mx.random.key(i)),
        )
        mx.eval(value, weights, average, moments)
        spent.append(time.process_time() - start)
    net.update(tree_unflatten(list(average.items())))
    return 1000 * float(np.median(spent[steps // 10 :]))
