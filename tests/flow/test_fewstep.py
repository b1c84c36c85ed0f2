import math
from itertools import pairwise

import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.fewstep import FINEST, LATEST, draw_steps, jump_grid, jumps, two_halves
from mlxflow.flow.oracle import Oracle
from mlxflow.flow.paths import CondOT, over, path_by_name
from mlxflow.flow.solvers import at, grid, solve
from mlxflow.runtime import mx

from .gaussian import Gaussian

from mlx import nn  # isort: skip

X = mx.random.normal((6, 2, 2, 1), key=mx.random.key(0)).astype(mx.float64)


def exact(path="condot"):
    """The average velocity of the Gaussian's flow, from its flow map; the velocity where h is 0."""
    true = Gaussian(path_by_name(path))

    def average(x, t, h):
        safe = mx.where(h > 0, h, 1.0)
        there = mx.minimum(t + safe, 1.0)
        span = over(there, x) - over(t, x)
        ratio = over(true.spread(there) / true.spread(t), x)
        end = over(true.path.a(there), x) * true.mean + ratio * (x - over(true.path.a(t), x) * true.mean)
        return mx.where(over(h, x) > 0, (end - x) / span, true.velocity(x, t))

    return true, average


@pytest.mark.parametrize("path", ["condot", "vp", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 32])
def test_jumps_of_the_exact_average_end_where_the_flow_does(path, steps):
    true, average = exact(path)
    x = true.path.start(X)
    states = list(jumps(average, x, jump_grid(steps), true.path))
    assert [s.nfe for s in states] == list(range(1, steps + 1)) and states[-1].t == 1
    for state in states:
        # The velocity at t = 1 of vp is not finite, but nobody asks for it.
        assert mx.abs(state.x - true.flow(x, 0.0, state.t)).max().item() < 1e-9
    assert mx.array_equal(states[-1].x1_estimate, states[-1].x).item()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 31))
def test_the_exact_average_is_the_mean_of_its_halves(level, place):
    true, average = exact()
    h = 2.0 ** -(level - 1)
    t = math.floor(place / FINEST / h) * h
    x = true.flow(X, 0.0, t) if t else X
    found = two_halves(average, x, at(t, x), at(h, x))
    assert mx.abs(found - average(x, at(t, x), at(h, x))).max().item() < 1e-9


def test_the_finest_halves_are_the_field_and_carry_no_gradient():
    true, average = exact()
    asked = []

    def watched(x, t, h):
        asked.append((t[0].item(), h[0].item()))
        return average(x, t, h)

    for h in (1 / FINEST, 2 / FINEST):
        two_halves(watched, X, at(0.5, X), at(h, X))
    assert asked == [(0.5, 0), (0.5 + 0.5 / FINEST, 0), (0.5, 1 / FINEST), (0.5 + 1 / FINEST, 1 / FINEST)]
    gradient = mx.grad(
        lambda w: two_halves(lambda x, t, h: w * average(x, t, h), X, at(0, X), at(1, X)).sum()
    )(mx.array(2.0))
    assert gradient.item() == 0


def test_steps_are_powers_of_a_half_at_multiples_of_themselves():
    n = 40_000
    t, h = (np.array(a, np.float64) for a in draw_steps(mx.random.key(0), n))
    levels, counts = np.unique(h, return_counts=True)
    assert levels.tolist() == [2.0**-k for k in range(5, -1, -1)] and np.abs(counts / n - 1 / 6).max() < 0.01
    assert np.array_equal(t / h, np.round(t / h)) and t.min() == 0 and (t + h).max() == 1
    assert (t + h / 2).max() == LATEST
    quarter = t[h == 0.25]
    assert np.abs(np.unique(quarter, return_counts=True)[1] / len(quarter) - 0.25).max() < 0.03


@pytest.mark.parametrize("steps", range(1, FINEST + 1))
def test_every_number_of_jumps_uses_steps_that_are_trained(steps):
    times = jump_grid(steps)
    assert len(times) == steps + 1 and times[0] == 0 and times[-1] == 1
    lengths = [b - a for a, b in pairwise(times)]
    assert all(math.log2(h).is_integer() and (t / h).is_integer() for t, h in zip(times, lengths))
    assert lengths == sorted(lengths) and max(lengths) <= 2 * min(lengths)


def test_the_estimate_is_where_a_jump_points():
    x1 = mx.array([[0.5, -0.25]])
    states = list(
        jumps(lambda x, t, h: CondOT().velocity_from_data(x, x1, t, 1e-6), mx.zeros((1, 2)), [0, 0.25, 1])
    )
    assert all(mx.allclose(state.x1_estimate, x1, atol=1e-6).item() for state in states)


def test_bad_input_gets_a_sentence():
    for steps in (0, FINEST + 1):
        with pytest.raises(MlxflowError, match=f"1 to {FINEST} steps"):
            jump_grid(steps)
    with pytest.raises(MlxflowError, match="between 0 and 1"):
        list(jumps(lambda x, t, h: x, X, [0, 1.5]))
    with pytest.raises(MlxflowError, match="NaN or infinite at t = 0.5"):
        list(jumps(lambda x, t, h: x * math.inf, X, [0, 0.5, 1]))


class Net(nn.Module):
    """u(x, t, h) of two-dimensional x."""

    def __init__(self, width=96):
        super().__init__()
        self.layers = [
            nn.Linear(6, width),
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Linear(width, 2),
        ]

    def __call__(self, x, t, h):
        y = mx.concatenate([x, mx.stack([t, h, mx.sqrt(h), t * t], axis=1)], axis=1)
        for layer in self.layers[:-1]:
            y = nn.silu(layer(y))
        return self.layers[-1](y)


def test_a_trained_network_makes_one_jump_of_a_curved_flow():
    # The exact field of four points of different weight: trajectories bend and part.
    points = mx.array([[-0.9, -0.8], [-0.7, 0.9], [0.3, 0.2], [0.9, -0.5]])
    oracle = Oracle(points, CondOT(), mx.array([1.0, 2.0, 3.0, 2.0]), floor=1 - LATEST)
    mx.random.seed(0)
    net, half, steps = Net(), 128, 1200
    optimizer = optim.Adam(optim.cosine_decay(3e-3, steps))

    def loss(net, x, t, h, v):
        target = mx.concatenate([v, two_halves(net, x[half:], t[half:], h)])
        return mx.square(net(x, t, mx.concatenate([mx.zeros_like(h), h])) - target).mean()

    step = nn.value_and_grad(net, loss)
    for key in mx.random.split(mx.random.key(1), steps):
        pair, time, jump = mx.random.split(key, 3)
        starts, h = draw_steps(jump, half)
        t = mx.concatenate([LATEST * mx.random.uniform(shape=(half,), key=time), starts])
        x0, x1, _ = oracle.draw(pair, 2 * half)
        x = CondOT().sample(x0, x1, t)
        _, gradients = step(net, x, t, h, oracle.velocity(x[:half], t[:half]))
        optimizer.update(net, gradients)
        mx.eval(net.parameters(), optimizer.state)

    noise = mx.random.normal((1000, 2), key=mx.random.key(2))
    *_, many = solve("heun", oracle.velocity, noise, grid("uniform", 60), euler_at_data=True)

    def judged(x):
        """The share that ends within 0.15 of a point, and that ends at the point where the flow does."""
        found = oracle.nearest(x)
        return (found.distance < 0.15).mean().item(), (
            found.index == oracle.nearest(many.x).index
        ).mean().item()

    *_, euler = solve("euler", oracle.velocity, noise, [0, 1])
    assert judged(euler.x)[0] < 0.1 and judged(many.x)[0] == 1
    for count in (1, 2, 4):
        *_, made = jumps(net, noise, jump_grid(count))
        arrived, agreed = judged(made.x)
        assert arrived > 0.6 and agreed > 0.85, count
