"""Pictures changed by the flow that draws them: redrawn in part or whole, inverted to noise, morphed.

    redraw   noise the picture to t = 1 - strength along the path, and draw on from there
             (Meng et al. 2022, "SDEdit")
    inpaint  the same with a mask: after every step what is known is put back, noised to the time reached;
             going back and redoing a step lets both parts agree (Lugmayr et al. 2022, "RePaint")
    invert   the flow run backwards: the noise that draws the picture
    reword   that noise drawn under other words
    morph    noise along a great circle, the guided velocities of both ends mixed

Values are float32 `[S, S, 4]` in [-1, 1], premultiplied (canvas.py makes them of any picture). All is
deterministic in (picture, words, seed, settings, weights).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mlxflow.errors import MlxflowError
from mlxflow.flow import guidance as guide
from mlxflow.flow import solvers
from mlxflow.runtime import mx
from mlxflow.sampling.pipeline import Pipeline, Request, Settings, time_grid

# After each step: how many are done, the picture so far (values), t.
Report = Callable[[int, np.ndarray, float], None]
# Backward steps are corrected until a forward one returns within this of where it came from.
TOLERANCE, CORRECTIONS = 1e-4, 25


def _quiet(done: int, values: np.ndarray, t: float) -> None:
    pass


def times_from(start: float, steps: int, last: float) -> list[float]:
    """Times from `start` (0: noise) to 1: `time_grid` shrunk to what is left of the path."""
    if start >= 1 - last:
        return [start, 1.0]
    return [start + (1 - start) * t for t in time_grid(steps, last / (1 - start))]


def guided(pipeline: Pipeline, prompt: str, settings: Settings) -> solvers.Velocity:
    """The velocity(x, t) of a prompt under the settings' guidance; an empty prompt is the model that is told
    nothing.
    """
    null = pipeline.encode(settings.negative) if settings.negative else pipeline.null
    if not prompt:
        return guide.classifier_free(pipeline.velocity, pipeline.null, null, 1.0)
    return guide.classifier_free(pipeline.velocity, pipeline.encode(prompt), null, settings.guidance,
                                 interval=(0.0, settings.guide_until))


def one_step(
    pipeline: Pipeline,
    velocity: solvers.Velocity,
    x: mx.array,
    t: float,
    t_next: float,
    solver: str,
    key: mx.array | None = None,
) -> solvers.State:
    """From t to t_next, either way; a step that ends at t = 1 goes straight to the data that it was heading
    for.
    """
    name = "euler" if t_next == 1 else solver
    own = {"key": key} if name == "sde" else {}
    for state in solvers.solve(name, velocity, x, [t, t_next], pipeline.path, **own):
        pass
    return state._replace(x=state.x1_estimate) if t_next == 1 else state


def redraw(
    pipeline: Pipeline,
    values: np.ndarray,
    prompt: str,
    *,
    strength: float,
    mask: np.ndarray | None = None,
    rounds: int = 1,
    seed: int = 0,
    settings: Settings = Settings(),
    report: Report = _quiet,
) -> np.ndarray:
    """The picture drawn again by the prompt, from `1 - strength` of the path on; values `[S, S, 4]`.

    strength: near 0 changes little, 1 everything. mask: bool `[S, S]`, True is drawn anew, the rest stays as
    it is to the bit. rounds: how often each step is taken (only with a mask). Raises MlxflowError for numbers
    out of range.
    """
    if not 0 < strength <= 1:
        raise MlxflowError(f"The strength must be above 0 and at most 1, not {strength:g}.")
    if not 1 <= rounds <= 20:
        raise MlxflowError(f"The rounds must be between 1 and 20, not {rounds}.")
    velocity, path = guided(pipeline, prompt, settings), pipeline.path
    x1 = mx.array(values)[None]
    x0 = Request(prompt, seed).noise(values.shape)
    key = mx.random.split(mx.random.key(seed))[1]
    new = None if mask is None else mx.array(mask)[None, ..., None]
    times = times_from(1 - strength, settings.steps, pipeline.last)
    x = path.sample(x0, x1, times[0])
    for i, (t, t_next) in enumerate(pairwise(times)):
        for again in range(rounds if mask is not None and t_next < 1 else 1):
            key, step_key, fresh_key = mx.random.split(key, 3)
            if again:
                x = _back(pipeline, x, t_next, t, fresh_key)
                x = mx.where(new, x, path.sample(x0, x1, t))
            state = one_step(pipeline, velocity, x, t, t_next, settings.solver, step_key)
            # What is known lies on its straight way from the noise that all began with.
            x = (
                state.x
                if new is None
                else mx.where(new, state.x, path.sample(x0, x1, t_next) if t_next < 1 else x1)
            )
        shown = state.x1_estimate if new is None else mx.where(new, state.x1_estimate, x1)
        report(i + 1, np.array(shown[0].astype(mx.float32)), t_next)
    return np.array(x[0].astype(mx.float32))


def _back(pipeline: Pipeline, x: mx.array, t: float, earlier: float, key: mx.array) -> mx.array:
    """A state at t noised to an earlier time: x' = r x + sqrt(s'^2 - r^2 s^2) noise with r = a' / a, which
    has the marginal of the earlier time."""
    (a, s), (a_earlier, s_earlier) = (
        (pipeline.path.a(time).item(), pipeline.path.s(time).item())
        for time in (mx.array(t), mx.array(earlier))
    )
    r = a_earlier / a
    spread = max(0.0, s_earlier**2 - (r * s) ** 2) ** 0.5
    return r * x + spread * mx.random.normal(x.shape, key=key)


@dataclass(frozen=True)
class Inversion:
    """noise: float32 `[1, S, S, 4]`, standard normal to the model; residual: what the picture has beyond the
    one that this noise draws under the same words, `[S, S, 4]`: what the model cannot draw."""

    noise: mx.array
    residual: np.ndarray


def backwards(
    pipeline: Pipeline, velocity: solvers.Velocity, x: mx.array, times: list[float], solver: str
) -> mx.array:
    """The state at times[0] that the solver carries to x at times[-1].

    Each step is run backwards, then corrected, y <- y + (x - step(y)), until a forward step returns to x: the
    inverse of the *discrete* flow, so that drawing again repeats the picture with as few steps as it was made
    with. dopri5 is within its own tolerance either way and needs no correction.
    """
    if solver == "sde":
        raise MlxflowError(
            "The sde solver adds noise on the way and cannot be run backwards: choose another solver."
        )
    for t, earlier in pairwise(times[::-1]):
        y = one_step(pipeline, velocity, x, t, earlier, solver).x
        least, best = float("inf"), y
        for _ in range(CORRECTIONS if solver != "dopri5" else 0):
            missing = x - one_step(pipeline, velocity, y, earlier, t, solver).x
            off = mx.abs(missing).max().item()
            if off < least:
                least, best = off, y
            if off < TOLERANCE or off > 4 * least:
                break
            y = y + missing
        x = best
    return x


def invert(
    pipeline: Pipeline,
    values: np.ndarray,
    prompt: str = "",
    *,
    seed: int = 0,
    settings: Settings = Settings(guidance=1.0),
) -> Inversion:
    """The noise of a picture under a prompt (none: the model that is told nothing).

    The last step of drawing goes straight to the data and has no inverse: before it a picture is x_t = a x1 +
    s z with z the noise of `seed`, and from there the solver runs backwards. What the last step then misses
    is the residual, so that `render` under the same words and settings returns the picture itself. Guidance
    above 1 makes the flow less smooth, and inversion less accurate.
    """
    velocity, x1 = guided(pipeline, prompt, settings), mx.array(values)[None]
    times = time_grid(settings.steps, pipeline.last)
    x = pipeline.path.sample(Request(prompt, seed).noise(values.shape), x1, times[-2])
    if len(times) > 2:
        x = backwards(pipeline, velocity, x, times[:-1], settings.solver)
    noise = x / pipeline.path.start(mx.ones((1, 1, 1, 1)))
    found = Inversion(noise, np.zeros_like(values))
    return replace(found, residual=values - render(pipeline, found, prompt, settings=settings))


def render(
    pipeline: Pipeline,
    inversion: Inversion,
    prompt: str,
    *,
    keep: float = 1.0,
    settings: Settings = Settings(guidance=1.0),
    report: Report = _quiet,
) -> np.ndarray:
    """Draws the noise of an inversion under a prompt, and adds `keep` times its residual: values `[S, S,
    4]`.
    """
    for i, x1 in enumerate(
        _drawn(pipeline, guided(pipeline, prompt, settings), inversion.noise, settings), 1
    ):
        values = x1 + keep * inversion.residual
        report(i, values, 1.0 if i == settings.steps else i / (settings.steps + 1))
    return values


def _drawn(
    pipeline: Pipeline, velocity: solvers.Velocity, noise: mx.array, settings: Settings
) -> Iterator[np.ndarray]:
    """The estimates of the picture, step by step, from noise `[1, S, S, 4]`."""
    x = pipeline.path.start(noise)
    key = mx.random.key(0)
    for t, t_next in pairwise(time_grid(settings.steps, pipeline.last)):
        key, own = mx.random.split(key)
        state = one_step(pipeline, velocity, x, t, t_next, settings.solver, own)
        x = state.x
        yield np.array(state.x1_estimate[0].astype(mx.float32))


@dataclass(frozen=True)
class End:
    """One end of a morph: its noise `[1, S, S, 4]`, its words, and what the noise alone does not draw."""

    noise: mx.array
    prompt: str
    residual: np.ndarray | float = 0.0


def on_circle(a: mx.array, b: mx.array, share: float) -> mx.array:
    """The way from a to b on the great circle, whose points are as long as normal noise is (a straight line's
    are shorter): sin((1 - share) w) / sin w a + sin(share w) / sin w b, w the angle between them (Shoemake
    1985).
    """
    cosine = ((a * b).sum() / mx.maximum(mx.sqrt((a * a).sum() * (b * b).sum()), 1e-12)).item()
    angle = float(np.arccos(np.clip(cosine, -1, 1)))
    if np.sin(angle) < 1e-4:
        return (1 - share) * a + share * b
    return (
        float(np.sin((1 - share) * angle) / np.sin(angle)) * a
        + float(np.sin(share * angle) / np.sin(angle)) * b
    )


def morph(
    pipeline: Pipeline, first: End, second: End, frames: int, settings: Settings = Settings()
) -> Iterator[np.ndarray]:
    """`frames` pictures from one end to the other, values `[S, S, 4]`; the first and the last are the ends
    themselves.

    The velocity is null + guidance ((1 - w) first + w second - null), linear in the share w of the way.
    """
    if not 2 <= frames <= 240:
        raise MlxflowError(f"The number of frames must be between 2 and 240, not {frames}.")
    null = pipeline.null
    both = guide.join(*(pipeline.encode(end.prompt) if end.prompt else null for end in (first, second)), null)
    for i in range(frames):
        share = i / (frames - 1)

        def velocity(x, t, share=share):
            made = pipeline.velocity(mx.concatenate([x] * 3), mx.concatenate([t] * 3), both)
            one, two, none = mx.split(made, 3)
            mixed = (1 - share) * one + share * two
            return guide.extrapolate(none, mixed, settings.guidance)

        for x1 in _drawn(pipeline, velocity, on_circle(first.noise, second.noise, share), settings):
            pass
        yield x1 + (1 - share) * first.residual + share * second.residual
