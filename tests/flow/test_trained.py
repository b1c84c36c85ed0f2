"""Loss, times and solver together: a small network trained with them comes to the closed form."""

import mlx.optimizers as optim
import numpy as np
import pytest

from mlxflow.flow.losses import flow_matching
from mlxflow.flow.paths import over, path_by_name
from mlxflow.flow.solvers import grid, solve
from mlxflow.flow.times import uniform
from mlxflow.runtime import mx

from .gaussian import Gaussian

from mlx import nn  # isort: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 64), nn.Linear(64, 64), nn.Linear(64, 2)]

    def __call__(self, x, t):
        h = mx.concatenate([x, over(t, x) * mx.ones_like(x[:, :1])], axis=1)
        for layer in self.layers[:-1]:
            h = mx.maximum(layer(h), 0)
        return self.layers[-1](h)


@pytest.mark.parametrize(
    "prediction, path", [("velocity", "condot"), ("data", "condot"), ("velocity", "cosine")]
)
def test_a_trained_network_comes_to_the_closed_form(prediction, path):
    mx.random.seed(0)
    true, net = Gaussian(path_by_name(path)), Net()
    steps, batch = 800, 256
    optimizer = optim.Adam(optim.cosine_decay(3e-3, steps))

    def loss(net, x0, x1, t):
        return flow_matching(net(true.path.sample(x0, x1, t), t), prediction, true.path, x0, x1, t).mean()

    step = nn.value_and_grad(net, loss)
    for key in mx.random.split(mx.random.key(1), steps):
        k0, k1, kt = mx.random.split(key, 3)
        x0, x1 = (
            mx.random.normal((batch, 2), key=k0),
            true.mean + true.std * mx.random.normal((batch, 2), key=k1),
        )
        _, gradients = step(net, x0, x1, uniform(kt, batch))
        optimizer.update(net, gradients)
        mx.eval(net.parameters(), optimizer.state)

    def velocity(x, t):
        return true.path.convert(x, net(x, t), t, prediction, "velocity")

    x0, x1 = (
        mx.random.normal((4096, 2), key=mx.random.key(2)),
        mx.random.normal((4096, 2), key=mx.random.key(3)),
    )
    t = mx.random.uniform(0.02, 0.9, (4096,), key=mx.random.key(4))
    x = true.path.sample(x0, true.mean + true.std * x1, t)
    exact = true.velocity(x, t)
    relative = mx.sqrt(mx.square(velocity(x, t) - exact).mean() / mx.square(exact).mean()).item()
    assert relative < 0.15
    for state in solve(
        "heun", velocity, x0, grid("uniform", 20), true.path, euler_at_data=prediction == "data"
    ):
        pass
    samples = np.array(state.x)
    assert np.abs(samples.mean(0) - true.mean).max() < 0.05 and np.abs(samples.std(0) - true.std).max() < 0.05
