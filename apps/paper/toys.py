"""Two-dimensional data whose density is known, so that a model's log-likelihood has a truth to be compared
with.

    checkerboard   uniform on the 8 dark squares of a 4x4 board over [-1, 1]^2
    moons, rings   a point of a curve, uniformly by its parameter, plus N(0, sigma^2 I)

The density of a curve with noise is the mean of N(x; c_k, sigma^2 I) over points c_k spread evenly along it:
the trapezoid rule, exact to rounding once the points are much closer than sigma.
"""

import math
from collections.abc import Callable

import numpy as np

SIDE = 4
SIGMA = 0.05
_POINTS = 400


def squares() -> np.ndarray:
    """Lower left corners `[8, 2]` of the dark squares, of side 2 / SIDE."""
    return np.array([(i, j) for i in range(SIDE) for j in range(SIDE) if (i + j) % 2 == 0]) * 2 / SIDE - 1


def checkerboard(generator: np.random.Generator, count: int) -> np.ndarray:
    corner = squares()[generator.integers(0, SIDE * SIDE // 2, count)]
    return (corner + generator.random((count, 2)) * 2 / SIDE).astype(np.float32)


def checkerboard_log_density(x: np.ndarray) -> np.ndarray:
    """log(1 / 2) on the dark squares, whose area is 2; -inf elsewhere."""
    i, j = np.floor((x + 1) * SIDE / 2).astype(int).T
    inside = (np.abs(x) < 1).all(axis=1) & ((i + j) % 2 == 0)
    return np.where(inside, math.log(0.5), -np.inf)


def moon(u: np.ndarray) -> np.ndarray:
    """Two interleaved half circles of radius 0.55 for u in [0, 1): the first half of u is the upper one."""
    upper, angle = u < 0.5, np.pi * (2 * u % 1)
    return (
        np.stack(
            [
                np.where(upper, np.cos(angle) - 0.5, 0.5 - np.cos(angle)),
                np.where(upper, np.sin(angle) - 0.25, 0.25 - np.sin(angle)),
            ],
            axis=1,
        )
        * 0.55
    )


def ring(u: np.ndarray) -> np.ndarray:
    """Three circles around 0 of radius 0.3, 0.6 and 0.9, each of weight 1 / 3, for u in [0, 1)."""
    radius, angle = 0.3 * (1 + np.floor(3 * u)), 2 * np.pi * (3 * u % 1)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def noisy(curve: Callable) -> Callable:
    def draw(generator: np.random.Generator, count: int) -> np.ndarray:
        at = curve(generator.random(count))
        return (at + SIGMA * generator.standard_normal((count, 2))).astype(np.float32)

    return draw


def noisy_log_density(curve: Callable, pieces: int) -> Callable:
    """log p(x) of `noisy(curve)`; the curve has `pieces` parts of equal weight, each sampled evenly at
    midpoints."""
    points = curve((np.arange(pieces * _POINTS) + 0.5) / (pieces * _POINTS))

    def log_density(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        squared = np.square(x).sum(1)[:, None] - 2 * x @ points.T + np.square(points).sum(1)
        exponent = -squared / (2 * SIGMA**2)
        top = exponent.max(axis=1, keepdims=True)
        mean = np.exp(exponent - top).mean(axis=1)
        return np.log(mean) + top[:, 0] - math.log(2 * math.pi * SIGMA**2)

    return log_density


SAMPLERS = {"checkerboard": checkerboard, "moons": noisy(moon), "rings": noisy(ring)}
LOG_DENSITIES = {
    "checkerboard": checkerboard_log_density,
    "moons": noisy_log_density(moon, 2),
    "rings": noisy_log_density(ring, 3),
}


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|) of two samples `[n, d]`, with the unbiased (off-diagonal)
    means (Szekely & Rizzo 2013); about 0, and 0 where negative by chance, when both have one distribution."""

    def mean(p, q):
        squared = np.square(p).sum(1)[:, None] + np.square(q).sum(1)[None] - 2 * p @ q.T
        return np.sqrt(np.maximum(squared, 0))

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    own = sum(mean(p, p).sum() / (len(p) * (len(p) - 1)) for p in (a, b))
    return math.sqrt(max(0.0, 2 * mean(a, b).mean() - own))
