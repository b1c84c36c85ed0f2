"""What the process costs beside the network: overhead of solvers and guidance, price of a likelihood.

    OPENBLAS_NUM_THREADS=1 python benchmarks/solver_overhead.py

A step's own cost is its wall time less the time inside the network, both measured in the same run: each
network call is evaluated and timed where it happens, the best of several rounds counts. Stochastic sampling
draws fresh noise at every step, and does so while the network works: the table, which waits for the
network, has all of it, and the line below says what is left of it in real use (sampling less as many calls
of the network, by turns).

Batch 16 on a busy two-core CPU, one BLAS thread: 1.6 % for euler, 1.2 heun, 0.9 rk4, 1.3 dopri5, 0.8 and
0.5 for guided euler and heun. sde 2.6 to 3.7 %, a third to a half of it the noise (2.3 ms a draw; with
mx.random.normal, 6 ms and more, it had been 5.9 %). In real use no difference is left that could be told
from chance. A likelihood costs 2.4 calls of the network an evaluation with one probe.
"""

import argparse
import time

import numpy as np

from mlxflow.runtime import mx

from mlxflow.flow.guidance import classifier_free  # isort: skip
from mlxflow.flow.likelihood import log_likelihood
from mlxflow.flow.paths import CondOT
from mlxflow.flow.solvers import fresh_noise, grid, solve
from mlxflow.networks import build


class Timed:
    """A callable that is evaluated at each call, and the seconds that it took."""

    def __init__(self, function):
        self.function, self.seconds = function, 0.0

    def __call__(self, *inputs):
        mx.eval(inputs)
        start = time.perf_counter()
        result = self.function(*inputs)
        mx.eval(result)
        self.seconds += time.perf_counter() - start
        return result


def seconds(function) -> float:
    """Of one evaluation of what function() returns."""
    start = time.perf_counter()
    mx.eval(function())
    return time.perf_counter() - start


def in_use(solver: str, velocity, x: mx.array, turns: int, steps: int = 4) -> tuple[float, float]:
    """Milliseconds a step that sampling takes beyond as many bare calls, and those of a call: medians over turns, in
    each of which both are timed."""
    settings, zero = {"key": mx.random.key(2)} if solver == "sde" else {}, mx.zeros((len(x),))

    def sampled():
        *_, state = solve(solver, velocity, x, grid("uniform", steps), **settings)
        return state.x

    def bare():
        for _ in range(steps):
            mx.eval(velocity(x, zero))
        return x

    pairs = np.array([(seconds(sampled), seconds(bare)) for _ in range(turns)]) * 1000 / steps
    return float(np.median(pairs[:, 0] - pairs[:, 1])), float(np.median(pairs[:, 1]))


def make_velocity(batch: int):
    """The emoji model with random weights as velocity(x, t, condition), a condition and its null."""
    network = build({"kind": "text-unet", "text": {}, "unet": {}})
    network.eval()
    length, dim = network.text.config.length, network.text.config.word_dim
    vectors, mask = (
        mx.random.normal((batch, length, dim), key=mx.random.key(0)),
        mx.ones((batch, length), mx.bool_),
    )
    condition, null = network.encode(vectors, mask), network.encode(vectors, ~mask)
    mx.eval(network.parameters(), condition, null)
    path = CondOT()

    def velocity(x, t, condition):
        return path.velocity_from_data(x, network.predict(x, t, condition), t)

    return mx.compile(velocity), condition, null, network.unet.config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--turns", type=int, default=20, help="of sampling and bare calls, for the last lines")
    options = parser.parse_args()
    function, condition, null, config = make_velocity(options.batch)
    noise = mx.random.normal(
        (options.batch, config.image_size, config.image_size, config.channels), key=mx.random.key(1)
    )

    def measure(solver: str, scale: float) -> tuple[float, float]:
        """Milliseconds a step in the network and outside it, of the round that wasted least."""
        best = (0.0, float("inf"))
        for _ in range(options.rounds + 1):
            timed = Timed(function)
            velocity = classifier_free(timed, condition, null, scale)
            settings = {"key": mx.random.key(2)} if solver == "sde" else {}
            start = time.perf_counter()
            steps = sum(1 for _ in solve(solver, velocity, noise, grid("uniform", options.steps), **settings))
            wall = time.perf_counter() - start
            outside = (wall - timed.seconds) / steps * 1000
            best = min(best, (timed.seconds / steps * 1000, outside), key=lambda pair: pair[1])
        return best

    print(
        f"batch {options.batch}, {'x'.join(map(str, noise.shape[1:]))}, {mx.default_device()}"
    )
    print(f"{'solver':<10}{'guidance':>9}{'network ms/step':>17}{'overhead ms/step':>18}{'share':>8}")
    for solver, scale in (
        ("euler", 1.0),
        ("heun", 1.0),
        ("rk4", 1.0),
        ("sde", 1.0),
        ("dopri5", 1.0),
        ("euler", 3.0),
        ("heun", 3.0),
    ):
        inside, outside = measure(solver, scale)
        print(f"{solver:<10}{scale:>9.1f}{inside:>17.1f}{outside:>18.2f}{outside / inside:>8.2%}")

    draw = min(seconds(lambda: fresh_noise(noise, [3])) for _ in range(5)) * 1000
    print(f"of a step of sde, drawing its noise: {draw:.2f} ms")
    velocity, one = classifier_free(function, condition, null, 1.0), mx.zeros((options.batch,))
    for solver in ("euler", "sde"):
        extra, alone = in_use(solver, velocity, noise, options.turns)
        print(f"{solver} in real use: {extra:+.2f} ms a step beside {alone:.1f} = {extra / alone:+.2%}")

    timed = Timed(function)
    timed(noise, one, condition)
    timed.seconds = 0.0
    timed(noise, one, condition)
    for probes in (1, 4):
        start = time.perf_counter()
        found = log_likelihood(
            lambda x, t: function(x, t, condition),
            noise,
            key=mx.random.key(3),
            probes_count=probes,
            solver="euler",
            times=(0.9, 0.45, 0.0),
        )
        mx.eval(found.log_p)
        each = (time.perf_counter() - start) / 2
        print(
            f"likelihood, {probes} probe(s): {each * 1000:.0f} ms an evaluation of v and its divergence "
            f"= {each / timed.seconds:.1f} network calls"
        )


if __name__ == "__main__":
    main()
