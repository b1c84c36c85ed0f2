"""Solvers of dx/dt = v(x, t), as generators that yield each state.

The explicit Runge-Kutta methods are rows of one table (Hairer, Norsett & Wanner, "Solving Ordinary
Differential Equations I", II.1): k_i = v(x + h sum_j A_ij k_j, t + c_i h), x <- x + h sum_i b_i k_i. Times may
fall as well as rise: from 1 to 0 the same solver inverts data into noise.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import CondOT, Path
from mlxflow.runtime import mx

STRAIGHT = CondOT()
Velocity = Callable[[mx.array, mx.array], mx.array]


class State(NamedTuple):
    """After a step: the time reached, the state, the data it was heading for, and the calls made so far."""

    t: float
    x: mx.array
    x1_estimate: mx.array
    nfe: int


class Counted:
    """A velocity that counts its calls; NFE is read from here, never computed."""

    def __init__(self, velocity: Velocity):
        self.velocity, self.calls = velocity, 0

    def __call__(self, x: mx.array, t: mx.array) -> mx.array:
        self.calls += 1
        return self.velocity(x, t)


class Table(NamedTuple):
    order: int
    c: tuple[float, ...]
    A: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


TABLES = {
    "euler": Table(1, (0.0,), ((),), (1.0,)),
    "midpoint": Table(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun": Table(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk4": Table(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def check_times(times: Sequence[float]) -> list[float]:
    """The grid as floats: at least two, within [0, 1], strictly rising or strictly falling."""
    times = [float(t) for t in (times.tolist() if hasattr(times, "tolist") else times)]
    steps = [b - a for a, b in pairwise(times)]
    if not steps or not all(0 <= t <= 1 for t in times):
        raise MlxflowError("A time grid needs two or more times, all between 0 and 1.")
    if not (all(h > 0 for h in steps) or all(h < 0 for h in steps)):
        raise MlxflowError("A time grid must rise or fall at every step.")
    return times


def at(t: float, x: mx.array) -> mx.array:
    """The time t for each of the batch of x: [B], float32 (float64 for a float64 state)."""
    return mx.full((x.shape[0],), t, dtype=mx.float64 if x.dtype == mx.float64 else mx.float32)


def settle(x: mx.array, *others: mx.array, t: float) -> None:
    """Evaluate now, so that the graph does not grow over steps, and stop at the first broken state."""
    finite = mx.isfinite(x).all()
    mx.eval(x, finite, *others)
    if not finite.item():
        raise MlxflowError(f"The state turned NaN or infinite at t = {t:.4f}: use more steps, less guidance, "
                           "or other weights.")


def combine(x: mx.array, h: float, coefficients: Sequence[float], slopes: Sequence[mx.array]) -> mx.array:
    """x + h sum_j coefficients_j slopes_j, without the terms that are zero."""
    for c, k in zip(coefficients, slopes):
        if c:
            x = x + (h * c) * k
    return x


def runge_kutta(table: Table, velocity: Velocity, x: mx.array, times: Sequence[float],
                path: Path, euler_at_data: bool) -> Iterator[State]:
    velocity = Counted(velocity)
    times = check_times(times)
    for t, t_next in pairwise(times):
        h = t_next - t
        use = TABLES["euler"] if euler_at_data and t_next == 1 and 1.0 in table.c else table
        slopes = []
        for c, row in zip(use.c, use.A):
            there = t_next if c == 1 else t + c * h
            y = combine(x, h, row, slopes)
            slopes.append(velocity(y, at(there, x)))
        estimate = path.data_from_velocity(x, slopes[0], t)
        x = combine(x, h, use.b, slopes)
        settle(x, estimate, t=t_next)
        yield State(t_next, x, estimate, velocity.calls)


def solve(name: str, velocity: Velocity, x: mx.array, times: Sequence[float], path: Path = STRAIGHT, *,
          euler_at_data: bool = False) -> Iterator[State]:
    """Carry x [B, ...] along `times` with `euler`, `midpoint`, `heun` or `rk4`; yields a State after each step.

    x1_estimate is read off the velocity at the start of each step (for previews), with `path`. nfe counts the
    calls of `velocity`. `euler_at_data`: a last step that would evaluate at t = 1 exactly is an Euler step, as
    in EDM (Karras et al. 2022, algorithm 1, line 6). Set it for a network that predicts data: there its
    velocity is 0 / 0, and the floor of the conversion would leave half of the last step's noise in heun.
    Raises MlxflowError for an unknown name, a bad grid, or a state that is no longer finite.
    """
    if name not in TABLES:
        raise MlxflowError(f"There is no solver '{name}': choose one of {', '.join(TABLES)}.")
    return runge_kutta(TABLES[name], velocity, x, times, path, euler_at_data)


def _grid(steps: int, warp: Callable[[float], float]) -> list[float]:
    if steps < 1:
        raise MlxflowError(f"The number of steps must be at least 1, not {steps}.")
    return [0.0] + [warp(i / steps) for i in range(1, steps)] + [1.0]


def uniform_grid(steps: int) -> list[float]:
    """steps + 1 equal times from 0 to 1."""
    return _grid(steps, lambda u: u)


def shifted_grid(steps: int, shift: float = 3.0) -> list[float]:
    """More steps near the noise for shift > 1: t = u / (u + shift (1 - u)).

    Esser et al. 2024, eq. 23, which counts time from data to noise: tau' = shift tau / (1 + (shift - 1) tau).
    """
    if not shift > 0 or not math.isfinite(shift):
        raise MlxflowError(f"The time shift must be above 0, not {shift}.")
    return _grid(steps, lambda u: u / (u + shift * (1 - u)))


def cosine_grid(steps: int) -> list[float]:
    """Small steps at both ends: t = (1 - cos(pi u)) / 2."""
    return _grid(steps, lambda u: 0.5 - 0.5 * math.cos(math.pi * u))


def edm_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """EDM's noise levels (Karras et al. 2022, eq. 5) at the CondOT times t = 1 / (1 + sigma), the ends set to 0 and 1."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _grid(steps, lambda u: 1 / (1 + (high + u * (low - high)) ** rho))


GRIDS = {"uniform": uniform_grid, "shifted": shifted_grid, "cosine": cosine_grid, "edm": edm_grid}


def grid(name: str, steps: int, **settings: float) -> list[float]:
    """The time grid called `name`, rising from 0 to 1; reverse it to invert."""
    if name not in GRIDS:
        raise MlxflowError(f"There is no time grid '{name}': choose one of {', '.join(GRIDS)}.")
    return GRIDS[name](steps, **settings)
