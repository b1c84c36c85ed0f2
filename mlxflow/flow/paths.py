"""Probability paths from noise to data: x_t = a(t) x1 + s(t) x0, with x0 ~ N(0, I) at t = 0 and data x1 at t
= 1.

A path is two coefficients and their derivatives; everything else follows. The velocity that carries one pair
along its path is u_t = a'(t) x1 + s'(t) x0 (Lipman et al. 2023, "Flow Matching for Generative Modeling",
theorem 3, eq. 15, with mu_t = a x1 and sigma_t = s). A network may predict that velocity, the data x1, the
noise x0 or the score -x0 / s: with x_t and t given, any one of them determines the others, by solving

    x_t = a x1 + s x0,    u_t = a' x1 + s' x0.

Times are floats or arrays of shape [B], which meet x of shape [B, ...]. Where a conversion divides by s
(which is 0 at the data end) or by a (0 at the noise end) the divisor is floored, so that it stays finite
there; it is exact wherever the divisor is above `floor`.
"""

import math
from dataclasses import dataclass

from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx

FLOOR = 0.05
KINDS = ("data", "velocity", "noise", "score")


def over(t, x: mx.array) -> mx.array:
    """A time as an array that broadcasts over x: a float, [1] or [B] becomes [1 or B, 1, 1, ...].

    A float takes the type of x, so that float64 states keep their accuracy. Raises MlxflowError for a float outside
    [0, 1] or a shape that does not fit; the values of an array are not looked at, since a compiled function has none.
    """
    if not isinstance(t, mx.array):
        if not 0 <= t <= 1:
            raise MlxflowError(f"The time must be between 0 and 1, not {t}.")
        return mx.array(t, dtype=x.dtype if x.dtype == mx.float64 else mx.float32)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, x.shape[0])):
        raise MlxflowError(
            f"The time has shape {tuple(t.shape)} but the state has {tuple(x.shape)}: "
            "give one time, or one for each of the batch."
        )
    return t.reshape(t.shape + (1,) * (x.ndim - 1)) if t.ndim else t


def exp(x: mx.array) -> mx.array:
    """e^x. MLX's float64 exp and sin (0.32) have float32's accuracy on the CPU, not its expm1 and tan."""
    return mx.expm1(x) + 1 if x.dtype == mx.float64 else mx.exp(x)


def sin(x: mx.array) -> mx.array:
    """sin x for |x| < pi; see `exp`."""
    if x.dtype != mx.float64:
        return mx.sin(x)
    half = mx.tan(0.5 * x)
    return 2 * half / (1 + mx.square(half))


@dataclass(frozen=True)
class Path:
    """The base: a subclass gives a, s, da, ds; each maps times (any shape) to coefficients of that shape."""

    def a(self, t: mx.array) -> mx.array:
        raise NotImplementedError

    def s(self, t: mx.array) -> mx.array:
        raise NotImplementedError

    def da(self, t: mx.array) -> mx.array:
        raise NotImplementedError

    def ds(self, t: mx.array) -> mx.array:
        raise NotImplementedError

    def _at(self, t, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        t = over(t, x)
        return tuple(c(t).astype(x.dtype) for c in (self.a, self.s, self.da, self.ds))

    def start(self, noise: mx.array) -> mx.array:
        """Where sampling starts: standard normal `noise` scaled to the path's spread at t = 0."""
        return self._at(0.0, noise)[1] * noise

    def sample(self, x0: mx.array, x1: mx.array, t) -> mx.array:
        """x_t = a x1 + s x0."""
        a, s, _, _ = self._at(t, x1)
        return a * x1 + s * x0

    def target(self, x0: mx.array, x1: mx.array, t) -> mx.array:
        """u_t = a' x1 + s' x0, the time derivative of `sample`."""
        _, _, da, ds = self._at(t, x1)
        return da * x1 + ds * x0

    def velocity_from_data(self, x, x1, t, floor: float = FLOOR) -> mx.array:
        """u = (s' x + (a' s - a s') x1) / s; for CondOT with sigma_min = 0 it is (x1 - x) / (1 - t)."""
        a, s, da, ds = self._at(t, x)
        return (ds * x + (da * s - a * ds) * x1) / mx.maximum(s, floor)

    def velocity_from_noise(self, x, x0, t, floor: float = FLOOR) -> mx.array:
        """u = (a' x + (a s' - a' s) x0) / a."""
        a, s, da, ds = self._at(t, x)
        return (da * x + (a * ds - da * s) * x0) / mx.maximum(a, floor)

    def velocity_from_score(self, x, score, t, floor: float = FLOOR) -> mx.array:
        return self.velocity_from_noise(x, self.noise_from_score(x, score, t), t, floor)

    def data_from_velocity(self, x, u, t) -> mx.array:
        """x1 = (s' x - s u) / (a s' - a' s): no divisor that vanishes."""
        a, s, da, ds = self._at(t, x)
        return (ds * x - s * u) / (a * ds - da * s)

    def noise_from_velocity(self, x, u, t) -> mx.array:
        """x0 = (a u - a' x) / (a s' - a' s): no divisor that vanishes."""
        a, s, da, ds = self._at(t, x)
        return (a * u - da * x) / (a * ds - da * s)

    def score_from_velocity(self, x, u, t, floor: float = FLOOR) -> mx.array:
        return self.score_from_noise(x, self.noise_from_velocity(x, u, t), t, floor)

    def data_from_noise(self, x, x0, t, floor: float = FLOOR) -> mx.array:
        a, s, _, _ = self._at(t, x)
        return (x - s * x0) / mx.maximum(a, floor)

    def noise_from_data(self, x, x1, t, floor: float = FLOOR) -> mx.array:
        a, s, _, _ = self._at(t, x)
        return (x - a * x1) / mx.maximum(s, floor)

    def score_from_noise(self, x, x0, t, floor: float = FLOOR) -> mx.array:
        """grad_x log p_t(x) = -E[x0 | x] / s."""
        return -x0 / mx.maximum(self._at(t, x)[1], floor)

    def noise_from_score(self, x, score, t) -> mx.array:
        return -self._at(t, x)[1] * score

    def data_from_score(self, x, score, t, floor: float = FLOOR) -> mx.array:
        return self.data_from_noise(x, self.noise_from_score(x, score, t), t, floor)

    def score_from_data(self, x, x1, t, floor: float = FLOOR) -> mx.array:
        return self.score_from_noise(x, self.noise_from_data(x, x1, t, floor), t, floor)

    def convert(
        self, x: mx.array, value: mx.array, t, source: str, to: str, floor: float = FLOOR
    ) -> mx.array:
        """One kind of prediction ("data", "velocity", "noise" or "score") at x_t = x into another."""
        for kind in (source, to):
            if kind not in KINDS:
                raise MlxflowError(f"There is no prediction type '{kind}': choose one of {', '.join(KINDS)}.")
        if source == to:
            return value
        if to == "velocity":
            step = getattr(self, f"velocity_from_{source}")
            return step(x, value, t, floor)
        step = getattr(self, f"{to}_from_{source}")
        floored = source != "velocity" and (to, source) != ("noise", "score") or to == "score"
        return step(x, value, t, floor) if floored else step(x, value, t)


@dataclass(frozen=True)
class CondOT(Path):
    """Straight lines: a = t, s = 1 - (1 - sigma_min) t (Lipman et al. 2023, eq. 20-22)."""

    sigma_min: float = 0.0

    def a(self, t):
        return t

    def s(self, t):
        # (1 - t) is exact near t = 1, where 1 - (1 - sigma_min) t would cancel.
        return (1 - t) + self.sigma_min * t

    def da(self, t):
        return mx.ones_like(t)

    def ds(self, t):
        return mx.full(t.shape, -(1 - self.sigma_min), dtype=t.dtype)


@dataclass(frozen=True)
class VariancePreserving(Path):
    """The diffusion path of DDPM: a = exp(-T(1 - t) / 2), s^2 = 1 - a^2.

    Here T(r) = r beta_min + r^2 (beta_max - beta_min) / 2:
    Lipman et al. 2023, eq. 18-19, with time reversed from noise to data; the betas are those of Song et al.
    2021, "Score-Based Generative Modeling", appendix C. The noise end holds a(0) = 0.0066 of the data.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _integral(self, t):
        r = 1 - t
        return r * self.beta_min + 0.5 * (self.beta_max - self.beta_min) * mx.square(r)

    def a(self, t):
        return exp(-0.5 * self._integral(t))

    def s(self, t):
        # expm1 keeps the digits near t = 1, where 1 - a^2 would lose them.
        return mx.sqrt(-mx.expm1(-self._integral(t)))

    def da(self, t):
        return 0.5 * (self.beta_min + (1 - t) * (self.beta_max - self.beta_min)) * self.a(t)

    def ds(self, t):
        # From a a' + s s' = 0. At t = 1 the true value is -infinity: it stops at s = 1e-4, 1 - t = 1e-7.
        return -self.a(t) * self.da(t) / mx.maximum(self.s(t), 1e-4)


@dataclass(frozen=True)
class Cosine(Path):
    """The variance-preserving cosine path: a = sin(pi t / 2), s = cos(pi t / 2).

    Albergo & Vanden-Eijnden 2023, "Building Normalizing Flows with Stochastic Interpolants", eq. 5
    ("trigonometric"); SiT calls it GVP.
    """

    def a(self, t):
        return sin(0.5 * math.pi * t)

    def s(self, t):
        return sin(0.5 * math.pi * (1 - t))

    def da(self, t):
        return 0.5 * math.pi * self.s(t)

    def ds(self, t):
        return -0.5 * math.pi * self.a(t)


@dataclass(frozen=True)
class VarianceExploding(Path):
    """Data under growing noise: a = 1, s = sigma_min (sigma_max / sigma_min)^(1 - t).

    Lipman et al. 2023, eq. 16-17, with the geometric schedule of Song et al. 2021, appendix C. The state at
    t = 0 is N(x1, sigma_max^2): begin with `start(noise)`. sigma_max should exceed the images' distances.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def a(self, t):
        return mx.ones_like(t)

    def s(self, t):
        return self.sigma_min * exp(self._rate * (1 - t))

    def da(self, t):
        return mx.zeros_like(t)

    def ds(self, t):
        return -self._rate * self.s(t)


PATHS = {"condot": CondOT, "vp": VariancePreserving, "cosine": Cosine, "ve": VarianceExploding}


def path_by_name(name: str, **settings: float) -> Path:
    """`condot`, `vp`, `cosine` or `ve`, with that path's own settings (`sigma_min`, `beta_max`, ...)."""
    if name not in PATHS:
        raise MlxflowError(f"There is no path '{name}': choose one of {', '.join(PATHS)}.")
    try:
        return PATHS[name](**settings)
    except TypeError:
        fields = ", ".join(PATHS[name].__dataclass_fields__) or "none"
        raise MlxflowError(
            f"The path '{name}' does not take {', '.join(settings)}: its settings are: {fields}."
        ) from None
