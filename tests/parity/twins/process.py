"""The process in torch: x_t = a(t) x1 + s(t) x0, its velocity, the loss, guidance and the solvers.

Derivatives by t are automatic, and what a prediction says of the rest follows by solving the path's two
equations, x_t = a x1 + s x0 and u = a' x1 + s' x0, for the two that are not known.
"""

import math

import torch
from torch import Tensor

PATHS = {
    "condot": lambda t, sigma_min=0.0: (t, 1 - (1 - sigma_min) * t),
    "cosine": lambda t: (torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)),
    "ve": lambda t, sigma_min=0.01, sigma_max=50.0: (
        torch.ones_like(t), sigma_min * (sigma_max / sigma_min) ** (1 - t)),
}


def vp(t: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> tuple[Tensor, Tensor]:
    """a^2 = exp(-integral of beta from t to 1), s^2 = 1 - a^2."""
    r = 1 - t
    log = -(beta_min * r + (beta_max - beta_min) * r**2 / 2)
    return torch.exp(log / 2), torch.sqrt(-torch.expm1(log))


PATHS["vp"] = vp


class Path:
    """A path by the name and settings that a config's process has; `floor` keeps divisors off 0."""

    def __init__(self, process: dict):
        settings = {name: process[name] for name in ("sigma_min",) if name in process}
        self.coefficients = lambda t: PATHS[process["path"]](t, **settings)
        self.prediction, self.floor = process.get("prediction"), process.get("floor", 0.05)

    def at(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """a, s, a', s' at times `[B]`, to meet x `[B, C, H, W]`; worked out in float64, where the device has
        it.
        """
        exact = t.double() if t.device.type == "cpu" else t
        values, slopes = torch.func.jvp(self.coefficients, (exact,), (torch.ones_like(exact),))
        return tuple(value.to(x.dtype).view(-1, 1, 1, 1) for value in (*values, *slopes))

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        a, s, _, _ = self.at(t, x1)
        return a * x1 + s * x0

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """u from what the network said at x: the unknown end of the pair is (x - ...) / its coefficient."""
        a, s, da, ds = self.at(t, x)
        if self.prediction == "velocity":
            return output
        if self.prediction == "data":
            # a' x1 + s' x0 with x0 = (x - a x1) / s, over one divisor.
            return (da * s * output + ds * (x - a * output)) / s.clamp(min=self.floor)
        return (ds * a * output + da * (x - s * output)) / a.clamp(min=self.floor)

    def pair(self, x: Tensor, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and x1 of the pair that passes x with the velocity u: Cramer's rule."""
        a, s, da, ds = self.at(t, x)
        determinant = a * ds - s * da
        return (a * u - da * x) / determinant, (ds * x - s * u) / determinant


def loss(path: Path, output: Tensor, x0: Tensor, x1: Tensor, t: Tensor, cap: float,
         contrast: float = 0.0) -> Tensor:
    """The mean over the batch of min(g^2, cap) |output - target|^2, g the velocity's change by one of the
    output's.

    contrast: less that share of the distance from the pair beside it in the batch (Stoica et al. 2025).
    """
    a, s, da, ds = path.at(t, x1)
    x, u = path.sample(x0, x1, t), da * x1 + ds * x0
    target = {"data": x1, "noise": x0, "velocity": u}[path.prediction]
    error = (output - target).square().flatten(1).mean(1)
    if contrast:
        other = da * x1.roll(1, 0) + ds * x0.roll(1, 0)
        away_x0, away_x1 = path.pair(x, other, t)
        away = {"data": away_x1, "noise": away_x0, "velocity": other}[path.prediction]
        error = error - contrast * (output - away).square().flatten(1).mean(1)
    g = {"data": da - a * ds / s.clamp(min=1e-6), "noise": ds - s * da / a.clamp(min=1e-6),
         "velocity": torch.ones_like(a)}
    return (g[path.prediction].flatten().square().clamp(max=cap) * error).mean()


def guided(velocity, condition, null, scale: float):
    """velocity(x, t) = v(null) + scale (v(condition) - v(null)); at scale 1 the conditional one."""
    if scale == 1:
        return lambda x, t: velocity(x, t, condition)

    def both(x: Tensor, t: Tensor) -> Tensor:
        weak = velocity(x, t, null)
        return weak + scale * (velocity(x, t, condition) - weak)

    return both


def times(steps: int, floor: float) -> list[float]:
    """(i / steps)^2, made shorter as a whole where the last step, which ends at 1, would be less than
    `floor`.
    """
    before = [(i / steps) ** 2 for i in range(steps)]
    shrink = min(1, (1 - floor) / before[-1]) if steps > 1 else 1
    return [t * shrink for t in before] + [1.0]


def trajectory(path: Path, velocity, noise: Tensor, steps: int, solver: str):
    """The states after each step of "euler" or "heun" from noise; the last step goes to the data that is in
    sight.
    """
    grid = times(steps, path.floor)
    at = lambda t: torch.full((len(noise),), t, device=noise.device)
    x = path.at(at(0.0), noise)[1] * noise
    for t, after in zip(grid, grid[1:]):
        u, h = velocity(x, at(t)), after - t
        if after == 1:
            x = path.pair(x, u, at(t))[1]
        elif solver == "euler":
            x = x + h * u
        else:
            x = x + h / 2 * (u + velocity(x + h * u, at(after)))
        yield x


def jumps(average, noise: Tensor, steps: int):
    """The states of a few-step model after each of `steps` jumps (a power of two), x <- x + h u(x, t, h), h =
    1 / steps.
    """
    x, h = noise, torch.full((len(noise),), 1 / steps, device=noise.device)
    for i in range(steps):
        x = x + average(x, i * h, h) / steps
        yield x
