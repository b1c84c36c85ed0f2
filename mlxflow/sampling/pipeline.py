"""Noise to pictures: one loop over a solver's states, for the command line, the trainer's sheets and previews.

The last step goes straight to the data that the velocity points at, and is no shorter than `last`. The velocity
of a data-predicting network, (x1_hat - x) / (1 - t), has its divisor floored near t = 1: from outside the floored
stretch one step lands on x1_hat exactly, while steps inside it would leave a part of the noise in the picture
(EDM, Karras et al. 2022, stops at sigma_min and steps to 0 likewise).
"""

from collections.abc import Callable, Iterator
from typing import Any

from mlxflow.flow import guidance as guide
from mlxflow.flow import solvers
from mlxflow.flow.paths import Path
from mlxflow.runtime import mx


def time_grid(steps: int, last: float) -> list[float]:
    """steps + 1 times from 0 to 1, equally spaced but for a last step of at least `last` (0 < last < 1)."""
    times = solvers.uniform_grid(steps)
    squeeze = min(1.0, (1 - last) / times[-2]) if steps > 1 else 1.0
    return [t * squeeze for t in times[:-1]] + [1.0]


def states(velocity: Callable, condition: Any, null_condition: Any, noise: mx.array, steps: int = 16,
           solver: str = "heun", guidance: float = 1.0, *, path: Path = solvers.STRAIGHT,
           last: float = 0.05) -> Iterator[solvers.State]:
    """A generator of the solver's states from noise `[B, S, S, C]` to pictures, one a step, already evaluated.

    velocity(x, t `[B]`, condition) is the model; condition and null_condition are trees of arrays of batch B (or
    1). guidance 1 asks the model once a call and leaves null_condition unused; any other scale asks it with both.
    Each state has `x1_estimate`, the picture that the step was heading for. dopri5 chooses its own steps up to the
    last. Raises MlxflowError for an unknown solver, steps < 1, guidance < 0 or NaN, or a state that turns NaN.
    """
    guided = guide.classifier_free(velocity, condition, null_condition, guidance)
    times = time_grid(steps, last)
    state = solvers.State(0.0, path.start(noise), noise, 0)
    for state in solvers.solve(solver, guided, state.x, times[:-1], path) if steps > 1 else ():
        yield state
    for end in solvers.solve("euler", guided, state.x, times[-2:], path):
        yield end._replace(x=end.x1_estimate, nfe=state.nfe + end.nfe)


def sample(velocity: Callable, condition: Any, null_condition: Any, noise: mx.array, steps: int = 16,
           solver: str = "heun", guidance: float = 1.0, **settings) -> mx.array:
    """The pictures `[B, S, S, C]` at the end of `states`, about [-1, 1], premultiplied for RGBA."""
    for state in states(velocity, condition, null_condition, noise, steps, solver, guidance, **settings):
        pass
    return state.x
