"""The one data distribution whose flow is known in full: x1 ~ N(mean, std^2 I), along any path.

x_t ~ N(a mean, a^2 std^2 + s^2), so with r(t)^2 = a^2 std^2 + s^2 the flow map is
x_t = a mean + r(t) / r(0) (x_0 - a(0) mean), and its time derivative is the velocity.
"""

from mlxflow.flow.paths import Path, over
from mlxflow.runtime import mx


class Gaussian:
    def __init__(self, path: Path, mean: float = 0.4, std: float = 0.5):
        self.path, self.mean, self.std = path, mean, std

    def spread(self, t: mx.array) -> mx.array:
        return mx.sqrt(mx.square(self.path.a(t) * self.std) + mx.square(self.path.s(t)))

    def velocity(self, x: mx.array, t: mx.array) -> mx.array:
        p, t = self.path, over(t, x)
        rate = (p.a(t) * p.da(t) * self.std**2 + p.s(t) * p.ds(t)) / mx.square(self.spread(t))
        return p.da(t) * self.mean + rate * (x - p.a(t) * self.mean)

    def flow(self, x: mx.array, start: float, end: float) -> mx.array:
        start, end = over(start, x), over(end, x)
        ratio = self.spread(end) / self.spread(start)
        return self.path.a(end) * self.mean + ratio * (x - self.path.a(start) * self.mean)
