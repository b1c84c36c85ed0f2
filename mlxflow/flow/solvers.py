"""Solvers of dx/dt = v(x, t), as generators that yield each state.

The explicit Runge-Kutta methods are rows of one table (Hairer, Norsett & Wanner, "Solving Ordinary
Differential Equations I", II.1): k_i = v(x + h sum_j A_ij k_j, t + c_i h), x <- x + h sum_i b_i k_i. Times
may fall as well as rise: from 1 to 0 the same solver inverts data into noise.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

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
    "rk4": Table(
        4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    ),
}

# Dormand & Prince 1980, "A family of embedded Runge-Kutta formulae", table 2; the last row is the step.
DOPRI = Table(
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
)
# The fifth-order weights less the fourth-order ones.
DOPRI_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# Where dopri5 leaves the last stretch to one Euler step, if asked to keep off t = 1.
NEAR_DATA = 0.99


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
        raise MlxflowError(
            f"The state turned NaN or infinite at t = {t:.4f}: use more steps, less guidance, "
            "or other weights."
        )


def combine(x: mx.array, h: float, coefficients: Sequence[float], slopes: Sequence[mx.array]) -> mx.array:
    """x + h sum_j coefficients_j slopes_j, without the terms that are zero."""
    for c, k in zip(coefficients, slopes):
        if c:
            x = x + (h * c) * k
    return x


def runge_kutta(
    table: Table, velocity: Velocity, x: mx.array, times: list[float], path: Path, euler_at_data: bool
) -> Iterator[State]:
    """Fixed steps along `times`."""
    for t, t_next in pairwise(times):
        h = t_next - t
        use = TABLES["euler"] if euler_at_data and t_next == 1 and 1.0 in table.c else table
        slopes = []
        for c, row in zip(use.c, use.A):
            there = t_next if c == 1 else t + c * h
            slopes.append(velocity(combine(x, h, row, slopes), at(there, x)))
        estimate = path.data_from_velocity(x, slopes[0], t)
        x = combine(x, h, use.b, slopes)
        settle(x, estimate, t=t_next)
        yield State(t_next, x, estimate, velocity.calls)


def error_norm(error: mx.array, before: mx.array, after: mx.array, rtol: float, atol: float) -> float:
    """The largest over the batch of each sample's RMS of error / (atol + rtol |x|), so that none hides."""
    scale = atol + rtol * mx.maximum(mx.abs(before), mx.abs(after))
    return mx.sqrt(mx.square(error / scale).reshape(error.shape[0], -1).mean(1)).max().item()


def _first_step(
    velocity: Velocity,
    x: mx.array,
    t: float,
    sign: int,
    k: mx.array,
    rtol: float,
    atol: float,
    longest: float,
) -> float:
    """A starting step from the sizes of x, v and dv/dt (Hairer et al. II.4, p. 169), one more call."""
    d0, d1 = error_norm(x, x, x, rtol, atol), error_norm(k, x, x, rtol, atol)
    h0 = min(longest, 0.01 * d0 / d1 if d0 > 1e-5 and d1 > 1e-5 else 1e-6)
    ahead = velocity(x + sign * h0 * k, at(t + sign * h0, x))
    d2 = error_norm(ahead - k, x, x, rtol, atol) / h0
    largest = max(d1, d2)
    h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / 5)
    return min(100 * h0, h1, longest)


def dopri5(
    velocity: Velocity,
    x: mx.array,
    times: list[float],
    path: Path,
    euler_at_data: bool,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> Iterator[State]:
    """Dormand & Prince 5(4) with the step chosen from the error estimate; yields after each accepted step.

    Every time of the grid is met exactly. h <- h min(10, max(0.2, 0.9 err^(-1/5))) (Hairer et al. II.4,
    eq. 4.13); the last stage is the next step's first. `max_steps` counts rejected steps too.
    """
    if not (rtol >= 0 and atol > 0):
        raise MlxflowError(f"The tolerances must be above 0, not rtol {rtol} and atol {atol}.")
    last = times[-1]
    if euler_at_data and last == 1 and times[0] < NEAR_DATA:
        times = [t for t in times if t < NEAR_DATA] + [NEAR_DATA]
    sign = 1 if times[-1] > times[0] else -1
    t, k, h, taken = times[0], velocity(x, at(times[0], x)), None, 0
    for goal in times[1:]:
        if h is None:
            h = _first_step(velocity, x, t, sign, k, rtol, atol, abs(goal - t))
        while t != goal:
            taken += 1
            if taken > max_steps or h < 1e-9:
                raise MlxflowError(
                    f"dopri5 took {taken - 1} steps and is only at t = {t:.4f} of {times[0]:g} to "
                    f"{times[-1]:g}: loosen rtol ({rtol:g}) and atol ({atol:g}), or raise max_steps."
                )
            clipped = h >= abs(goal - t) * (1 - 1e-9)
            step = goal - t if clipped else sign * h
            slopes = [k]
            for c, row in zip(DOPRI.c[1:], DOPRI.A[1:]):
                there = goal if clipped and c == 1 else t + c * step
                y = combine(x, step, row, slopes)
                slopes.append(velocity(y, at(there, x)))
            error = error_norm(combine(mx.zeros_like(x), step, DOPRI_ERROR, slopes), x, y, rtol, atol)
            if not math.isfinite(error):
                settle(y, t=t + step)
                error = 1e6
            factor = min(10.0, max(0.2, 0.9 * error**-0.2)) if error else 10.0
            if error <= 1:
                estimate = path.data_from_velocity(x, k, t)
                t, x, k = goal if clipped else t + step, y, slopes[-1]
                settle(x, estimate, k, t=t)
                yield State(t, x, estimate, velocity.calls)
                # A step cut short to meet the grid says nothing against the longer one.
                h = max(h, abs(step) * factor) if clipped else h * factor
            else:
                h = abs(step) * min(1.0, factor)
    if last != t:
        x = estimate = x + (last - t) * k
        settle(x, t=last)
        yield State(last, x, estimate, velocity.calls)


def fresh_noise(x: mx.array, seed: np.ndarray) -> mx.array:
    """Standard normal numbers like x, by the ziggurat method: on a CPU less than half of the time that
    mx.random.normal takes, and the same on every device."""
    generator = np.random.default_rng(seed)
    kind = np.float64 if x.dtype == mx.float64 else np.float32
    return mx.array(generator.standard_normal(x.shape, dtype=kind)).astype(x.dtype)


def sde(
    velocity: Velocity,
    x: mx.array,
    times: list[float],
    path: Path,
    euler_at_data: bool,
    *,
    key: mx.array,
    noise: float = 1.0,
) -> Iterator[State]:
    """Stochastic sampling with the marginals of the flow: dx = (v - noise x0_hat) dt + sqrt(2 noise s) dw.

    Ma et al. 2024 (SiT), section 2: dx = (v + w score / 2) dt + sqrt(w) dw has them for every w >= 0; with
    w = 2 noise s(t) the score's divisor cancels, score = -x0_hat / s. Euler-Maruyama; a last step that ends
    at t = 1 is deterministic. noise = 0 is Euler, bit for bit. Only from noise to data. The velocity is set
    to work before the noise is drawn, so that both are made at once where there are two processors or a GPU.
    """
    if times[-1] < times[0]:
        raise MlxflowError("The sde solver runs from noise to data only: invert with an ODE solver.")
    if not noise >= 0:
        raise MlxflowError(f"The noise level of the sde solver must be 0 or more, not {noise}.")
    # As numbers, before the network is asked: what is still to be computed would wait behind it.
    seeds = np.array(mx.random.split(key, len(times)))
    for (t, t_next), seed in zip(pairwise(times), seeds):
        h = t_next - t
        a, s, da, ds = (c(at(t, x)[:1]).item() for c in (path.a, path.s, path.da, path.ds))
        u = velocity(x, at(t, x))
        estimate = path.data_from_velocity(x, u, t)
        if noise and t_next < 1:
            mx.async_eval(u)
            fresh, spread = fresh_noise(x, seed), math.sqrt(2 * noise * h * s)
            # x + h (u - noise x0_hat), where x0_hat = (a u - a' x) / (a s' - a' s): Path.noise_from_velocity
            share = h * noise / (a * ds - da * s)
            x = (1 + share * da) * x + (h - share * a) * u + spread * fresh
        else:
            x = x + h * u
        settle(x, estimate, t=t_next)
        yield State(t_next, x, estimate, velocity.calls)


NAMES = (*TABLES, "dopri5", "sde")


def solve(
    name: str,
    velocity: Velocity,
    x: mx.array,
    times: Sequence[float],
    path: Path = STRAIGHT,
    *,
    euler_at_data: bool = False,
    **settings,
) -> Iterator[State]:
    """Carry x [B, ...] along `times` with one of NAMES; yields a State after each step.

    x1_estimate is read off the velocity at the start of each step (for previews), with `path`. nfe counts the
    calls of `velocity`. `settings` are dopri5's (rtol, atol, max_steps) or sde's (key, noise).
    `euler_at_data`: a last step that would evaluate at t = 1 exactly is an Euler step, as in EDM (Karras et
    al. 2022, algorithm 1, line 6); dopri5 stops at t = 0.99 and steps from there. Set it for a network that
    predicts data: there its velocity is 0 / 0 at t = 1, and the floor of the conversion would leave half of
    the last step's noise in heun. Raises MlxflowError for an unknown name, a bad grid, or a state that is no
    longer finite.
    """
    if name not in NAMES:
        raise MlxflowError(f"There is no solver '{name}': choose one of {', '.join(NAMES)}.")
    velocity, times = Counted(velocity), check_times(times)
    if name in TABLES:
        return runge_kutta(TABLES[name], velocity, x, times, path, euler_at_data, **settings)
    return {"dopri5": dopri5, "sde": sde}[name](velocity, x, times, path, euler_at_data, **settings)


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
    """EDM's noise levels (Karras et al. 2022, eq. 5) at the CondOT times t = 1 / (1 + sigma), the ends set to
    0 and 1."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _grid(steps, lambda u: 1 / (1 + (high + u * (low - high)) ** rho))


GRIDS = {"uniform": uniform_grid, "shifted": shifted_grid, "cosine": cosine_grid, "edm": edm_grid}


def grid(name: str, steps: int, **settings: float) -> list[float]:
    """The time grid called `name`, rising from 0 to 1; reverse it to invert."""
    if name not in GRIDS:
        raise MlxflowError(f"There is no time grid '{name}': choose one of {', '.join(GRIDS)}.")
    return GRIDS[name](steps, **settings)
