"""Few steps: a network learns to jump along the trajectories of a trained flow, a whole stretch at a time.

The average velocity over a step h from (x, t) is u(x, t, h) = (x_(t+h) - x_t) / h along the flow's
trajectory, and u(x, t, 0) = v(x, t) the velocity. A network that knows u draws in as many calls as it makes
jumps x + h u(x, t, h), whatever the curve between. It is learnt as a shortcut model (Frans et al. 2025, "One
Step Diffusion via Shortcut Models", eq. 4-5): at h = 0 from the trained field, and at every longer step from
two jumps of its own of half the length, which lead to the same place,

    u(x, t, h) = (u(x, t, h/2) + u(x', t + h/2, h/2)) / 2,    x' = x + h/2 u(x, t, h/2).

Steps are 1, 1/2, ... 1/FINEST and start at multiples of themselves, so that one network draws in 1, 2, 4 ...;
other numbers take jumps of two lengths (`jump_grid`). The halves of the finest step are the field's own, at
h = 0.

MeanFlow (Geng et al. 2025, eq. 6) learns the same u from its derivative along the trajectory, u = v + h
du/dt, by a Jacobian-vector product. benchmarks/fewstep.py has both, from one trained field of two-dimensional
data and for as many steps: in one jump shortcuts end 0.014 to 0.020 from the field's own ends (RMS; the data
spans -1 to 1), MeanFlow 0.23 to 0.44; in four 0.011 to 0.014 against 0.045 to 0.057; and a step of MeanFlow
takes 1.25 to 1.4 times the processor time. Its derivative by t is large and rough where a network sees t
through sinusoids of 1000 t (with 30 t it was no better), and MLX has no such product of a convolution.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import Path, over
from mlxflow.flow.solvers import STRAIGHT, State, at, check_times, settle
from mlxflow.runtime import mx

# u(x [B, ...], t [B], h [B]): the average velocity over [t, t + h]; h = 0 is the velocity.
AverageVelocity = Callable[[mx.array, mx.array, mx.array], mx.array]
FINEST = 32
LEVELS = FINEST.bit_length()
# No step begins later than this, the middle of the last finest one.
LATEST = 1 - 0.5 / FINEST


def draw_steps(key: mx.array, batch: int) -> tuple[mx.array, mx.array]:
    """Starts t and steps h, [batch] each: h = 2^-k, every k of 0 ... log2 FINEST as likely, t a multiple of
    h."""
    for_level, for_start = mx.random.split(key)
    h = mx.power(0.5, mx.random.randint(0, LEVELS, (batch,), key=for_level).astype(mx.float32))
    count = 1 / h
    place = mx.minimum(mx.floor(mx.random.uniform(shape=(batch,), key=for_start) * count), count - 1)
    return place * h, h


def two_halves(average: AverageVelocity, x: mx.array, t: mx.array, h: mx.array) -> mx.array:
    """What u(x, t, h) has to be for two jumps of h / 2: their mean, of x's shape, without a gradient.

    t and h [B] as `draw_steps` gives them. Frans et al. 2025, eq. 5 and algorithm 1.
    """
    half = 0.5 * h
    told = mx.where(h > 1.5 / FINEST, half, 0.0)
    first = average(x, t, told)
    second = average(x + over(half, x) * first, t + half, told)
    return mx.stop_gradient(0.5 * (first + second))


def jump_grid(steps: int) -> list[float]:
    """steps + 1 times from 0 to 1 for up to FINEST steps: each a power of 1/2 that starts at a multiple of
    itself.

    Where `steps` is no power of two, the first jumps are the shorter ones: 3 is 0, 1/4, 1/2, 1.
    """
    if not 1 <= steps <= FINEST:
        raise MlxflowError(
            f"A few-step model draws in 1 to {FINEST} steps, not {steps}: choose another solver, "
            "such as heun, for more."
        )
    whole = 2 ** int(math.log2(steps))
    shorter = steps - whole
    return [i / (2 * whole) for i in range(2 * shorter)] + [i / whole for i in range(shorter, whole + 1)]


def jumps(
    average: AverageVelocity, x: mx.array, times: Sequence[float], path: Path = STRAIGHT
) -> Iterator[State]:
    """Carry x [B, ...] along `times`, x <- x + h u(x, t, h); yields a State after each jump.

    `path` reads the estimate of the data off the jump; at t = 1 it is the state. Raises MlxflowError for a
    bad grid or a state that is no longer finite.
    """
    for calls, (t, t_next) in enumerate(pairwise(check_times(times)), 1):
        u = average(x, at(t, x), at(t_next - t, x))
        estimate = path.data_from_velocity(x, u, t)
        x = x + (t_next - t) * u
        settle(x, estimate, t=t_next)
        yield State(t_next, x, x if t_next == 1 else estimate, calls)
