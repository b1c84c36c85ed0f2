"""Shortcut models or MeanFlow? Both learn the average velocity of one trained field of two-dimensional data.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.fewstep

A field is trained, then two copies of its network, with the step size as one more input, are trained on for
as many steps, one by each method. The table says how far their jumps end from where the field's own
trajectories end (RMS a number; the data spans -1 to 1), and what a training step costs. `--time-scale 30`
embeds t more gently than networks of the package do (1000), which favours MeanFlow's derivative by t.
"""

import argparse
import math

import numpy as np

from mlxflow.runtime import mx

from apps.paper.small import Net, fit  # noqa: E402
from apps.paper.toys import SAMPLERS, energy_distance  # noqa: E402
from mlxflow.flow import fewstep  # noqa: E402
from mlxflow.flow.paths import over  # noqa: E402
from mlxflow.flow.solvers import grid, solve  # noqa: E402


class Experiment:
    def __init__(self, data: str, batch: int, time_scale: float, steps: int):
        self.sampler, self.batch, self.time_scale = SAMPLERS[data], batch, time_scale
        mx.random.seed(0)
        self.teacher = Net(time_scale)

        def loss(x1, x0, t):
            x = over(t, x1) * x1 + over(1 - t, x1) * x0
            return mx.square(self.teacher(x, t) - (x1 - x0)).mean()

        fit(
            self.teacher,
            loss,
            lambda generator, key: (*self.pair(generator, key), self.times(generator)),
            steps,
        )
        self.field = mx.compile(self.teacher)

    def pair(self, generator, key):
        return mx.array(self.sampler(generator, self.batch)), mx.random.normal((self.batch, 2), key=key)

    def times(self, generator):
        return mx.array(generator.random(self.batch).astype(np.float32))

    def student(self) -> Net:
        net = Net(self.time_scale)
        net.update(self.teacher.parameters())
        return net

    def shortcut(self, steps: int) -> tuple[Net, float]:
        """Half of each batch learns the field, half to do two jumps in one."""
        net, half = self.student(), self.batch // 2

        def draw(generator, key):
            pair, jump = mx.random.split(key)
            x1, x0 = self.pair(generator, pair)
            starts, h = fewstep.draw_steps(jump, half)
            t = mx.concatenate([self.times(generator)[:half], starts])
            x = over(t, x1) * x1 + over(1 - t, x1) * x0
            return x, t, h, self.field(x[:half], t[:half])

        def loss(x, t, h, v):
            target = mx.concatenate([v, fewstep.two_halves(net, x[half:], t[half:], h)])
            return mx.square(net(x, t, mx.concatenate([mx.zeros_like(h), h])) - target).mean()

        return net, fit(net, loss, draw, steps)

    def meanflow(self, steps: int) -> tuple[Net, float]:
        """u = v + h du/dt along the field, a quarter of h is 0, adaptive weights (Geng et al. 2025, section
        4)."""
        net = self.student()

        def draw(generator, key):
            x1, x0 = self.pair(generator, key)
            t, end = np.sort(generator.random((2, self.batch)).astype(np.float32), axis=0)
            h = np.where(np.arange(self.batch) < self.batch // 4, 0, end - t).astype(np.float32)
            t, h = mx.array(t), mx.array(h)
            x = over(t, x1) * x1 + over(1 - t, x1) * x0
            return x, t, h, self.field(x, t)

        def loss(x, t, h, v):
            one = mx.ones_like(t)
            slope = mx.jvp(lambda *at: net(*at), [x, t, h], [v, one, -one])[1][0]
            error = mx.square(net(x, t, h) - mx.stop_gradient(v + over(h, v) * slope)).sum(1)
            return (error / mx.stop_gradient(error + 1e-3)).mean()

        return net, fit(net, loss, draw, steps)

    def judge(self, net: Net, count: int = 4000) -> tuple[list[float], list[float]]:
        """By 1, 2, 4 jumps: RMS distance to the field's ends, and energy distance to fresh data."""
        generator = np.random.default_rng(9)
        x0 = mx.array(generator.standard_normal((count, 2)).astype(np.float32))
        *_, end = solve("rk4", self.field, x0, grid("uniform", 32))
        fresh, errors, distances = self.sampler(generator, count), [], []
        for steps in (1, 2, 4):
            *_, made = fewstep.jumps(net, x0, fewstep.jump_grid(steps))
            errors.append(math.sqrt(mx.square(made.x - end.x).mean().item()))
            distances.append(energy_distance(np.array(made.x), fresh))
        return errors, distances


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=SAMPLERS, action="append")
    parser.add_argument("--time-scale", type=float, default=1000.0)
    parser.add_argument("--teacher-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    print(f"{options.steps} steps of {options.batch}, time embedding scaled by {options.time_scale:g}")
    print(
        f"{'data':<14}{'method':<10}{'ms a step':>10}{'RMS to the field, 1, 2, 4 jumps':>36}"
        f"{'energy distance':>26}"
    )
    for data in options.data or SAMPLERS:
        experiment = Experiment(data, options.batch, options.time_scale, options.teacher_steps)
        for method in ("shortcut", "meanflow"):
            net, cost = getattr(experiment, method)(options.steps)
            errors, distances = experiment.judge(net)
            print(
                f"{data:<14}{method:<10}{cost:>10.1f}"
                + "".join(f"{e:>12.4f}" for e in errors)
                + "  "
                + "".join(f"{d:>8.4f}" for d in distances),
                flush=True,
            )


if __name__ == "__main__":
    main()
