"""Two-dimensional data: the same network trained along straight and along diffusion paths, and what sets them apart."""

import time

import numpy as np

from apps.paper import draw
from apps.paper.small import Net, fit
from apps.paper.toys import LOG_DENSITIES, SAMPLERS, energy_distance
from mlxflow.flow.likelihood import log_likelihood
from mlxflow.flow.losses import flow_matching
from mlxflow.flow.paths import Path, path_by_name
from mlxflow.flow.solvers import grid, solve
from mlxflow.runtime import mx

PATHS = {"condot": "CondOT", "vp": "diffusion"}
# The diffusion path's velocity has no bound at t = 1: the paper ends just before it, too (appendix C).
END = {"condot": 1.0, "vp": 1 - 1e-4}
NFE = (2, 4, 8, 16, 32)
SHOWN = (4, 8, 16)
TOLERANCE = 1e-5
BATCH, SHOWN_POINTS, LINES = 256, 1500, 60


class Flow:
    """A trained field of one data set along one path."""

    def __init__(self, data: str, path: str, steps: int):
        self.data, self.sampler, self.path = data, SAMPLERS[data], path_by_name(path)
        self.end = END[path]
        mx.random.seed(0)
        self.net = Net()

        def drawn(generator, key):
            t = (np.arange(BATCH) + generator.random()) / BATCH
            return (mx.array(self.sampler(generator, BATCH)), mx.random.normal((BATCH, 2), key=key),
                    mx.array(np.minimum(t, self.end).astype(np.float32)))

        def loss(x1, x0, t):
            return flow_matching(self.net(self.path.sample(x0, x1, t), t), "velocity", self.path, x0, x1, t).mean()

        fit(self.net, loss, drawn, steps)
        self.velocity = mx.compile(self.net)

    def noise(self, count: int) -> mx.array:
        return self.path.start(mx.array(np.random.default_rng(5).standard_normal((count, 2)).astype(np.float32)))

    def ends(self, count: int, solver: str, steps: int = 1, **settings) -> tuple[np.ndarray, int]:
        """`count` samples `[count, 2]` and the calls that they took."""
        times = [t * self.end for t in grid("uniform", steps)]
        *_, state = solve(solver, self.velocity, self.noise(count), times, self.path, **settings)
        return np.array(state.x), state.nfe

    def states(self, count: int, steps: int = 48) -> np.ndarray:
        """`[steps + 1, count, 2]`: the whole way of `count` samples."""
        x = self.noise(count)
        times = [t * self.end for t in grid("uniform", steps)]
        return np.stack([np.array(x), *(np.array(s.x) for s in solve("rk4", self.velocity, x, times, self.path))])

    def log_density(self, points: np.ndarray, solver: str = "midpoint", times=None, **settings) -> tuple[np.ndarray, int]:
        if times is None:
            times = [t * self.end for t in grid("cosine", 20)[::-1]]
        parts, nfe = [], 0
        for part in np.array_split(points, -(-len(points) // 2500)):
            found = log_likelihood(self.velocity, mx.array(part), self.path, solver=solver, times=times, **settings)
            parts.append(np.array(found.log_p))
            nfe = found.nfe
        return np.concatenate(parts), nfe


def bend(states: np.ndarray) -> float:
    """How much longer the ways `[states, n, 2]` are than the straight lines between their ends, as a mean ratio."""
    length = np.linalg.norm(np.diff(states, axis=0), axis=2).sum(0)
    return float((length / np.maximum(np.linalg.norm(states[-1] - states[0], axis=1), 1e-6)).mean())


def report(steps: int, cells: int, judged: int) -> tuple[dict, dict]:
    """Figures by file name, and the numbers {data: {path: {...}}}."""
    flows, numbers = {}, {}
    for data in SAMPLERS:
        for path in PATHS:
            begun = time.process_time()
            flows[data, path] = Flow(data, path, steps)
            print(f"{data}, {PATHS[path]}: trained in {time.process_time() - begun:.0f} s", flush=True)
    ways = {key: flow.states(300) for key, flow in flows.items()}
    figures = {"trajectories.png": draw.framed(
        [(PATHS[path], [draw.trajectories(ways[data, path][:, :LINES]) for data in SAMPLERS]) for path in PATHS], list(SAMPLERS))}

    rows = []
    fresh = {data: SAMPLERS[data](np.random.default_rng(6), judged) for data in SAMPLERS}
    for (data, path), flow in flows.items():
        made = {nfe: flow.ends(judged, "midpoint", nfe // 2)[0] for nfe in NFE}
        adaptive, calls = flow.ends(judged, "dopri5", rtol=TOLERANCE, atol=TOLERANCE)
        rows.append((f"{data}\n{PATHS[path]}", [draw.cloud(made[n][:SHOWN_POINTS]) for n in SHOWN]
                     + [draw.cloud(adaptive[:SHOWN_POINTS])]))
        numbers.setdefault(data, {})[path] = {
            "bend": bend(ways[data, path]), "dopri5 calls": calls,
            "distance": {n: energy_distance(made[n], fresh[data]) for n in NFE}
            | {"dopri5": energy_distance(adaptive, fresh[data])}}
    figures["samples.png"] = draw.framed(rows, [f"{n} calls" for n in SHOWN] + ["dopri5"])

    lattice, rows = draw.lattice(cells), []
    for data in SAMPLERS:
        truth = LOG_DENSITIES[data](lattice)
        most = float(np.exp(truth.max()))
        panels = [truth] + [flows[data, path].log_density(lattice)[0] for path in PATHS]
        rows.append((data, [draw.heat(p.reshape(cells, cells), most) for p in panels]))
        for path in PATHS:
            found, calls = flows[data, path].log_density(fresh[data][:1000], "dopri5", (END[path], 0.0), rtol=TOLERANCE,
                                                         atol=TOLERANCE)
            numbers[data][path] |= {"log p": float(found.mean()), "truth": float(LOG_DENSITIES[data](fresh[data][:1000]).mean()),
                                    "likelihood calls": calls}
    figures["density.png"] = draw.framed(rows, ["truth", *PATHS.values()])
    return figures, numbers
