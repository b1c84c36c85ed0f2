"""Two-dimensional data: the same network trained along straight and along diffusion paths, and what sets them
apart."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
SHOWN = ("4", "8", "16", "dopri5")
BATCH, SHOWN_POINTS, LINES = 256, 1500, 60
# Up to a period of half a unit, a square of the checkerboard.
WAVES = (1, 2, 4)


class Options(NamedTuple):
    """Training steps of a field; points drawn, and judged by their likelihood; the grid of a density;
    dopri5's tolerances."""

    steps: int = 4000
    points: int = 1500
    judged: int = 400
    cells: int = 44
    tolerance: float = 1e-5


QUICK = Options(20, 100, 20, 6, 1e-2)


class Flow:
    """A trained field of one data set along one path."""

    def __init__(self, data: str, path: str, steps: int):
        self.data, self.sampler, self.path = data, SAMPLERS[data], path_by_name(path)
        self.end = END[path]
        mx.random.seed(0)
        self.net = Net(waves=WAVES)

        def drawn(generator, key):
            t = (np.arange(BATCH) + generator.random()) / BATCH
            return (
                mx.array(self.sampler(generator, BATCH)),
                mx.random.normal((BATCH, 2), key=key),
                mx.array(np.minimum(t, self.end).astype(np.float32)),
            )

        def loss(x1, x0, t):
            return flow_matching(
                self.net(self.path.sample(x0, x1, t), t), "velocity", self.path, x0, x1, t
            ).mean()

        fit(self.net, loss, drawn, steps)
        self.velocity = mx.compile(self.net)

    def noise(self, count: int) -> mx.array:
        return self.path.start(
            mx.array(np.random.default_rng(5).standard_normal((count, 2)).astype(np.float32))
        )

    def ends(self, count: int, solver: str, steps: int = 1, **settings) -> tuple[np.ndarray, int]:
        """`count` samples `[count, 2]` and the calls that they took."""
        times = [t * self.end for t in grid("uniform", steps)]
        *_, state = solve(solver, self.velocity, self.noise(count), times, self.path, **settings)
        return np.array(state.x), state.nfe

    def states(self, count: int, steps: int = 48) -> np.ndarray:
        """`[steps + 1, count, 2]`: the whole way of `count` samples."""
        x = self.noise(count)
        times = [t * self.end for t in grid("uniform", steps)]
        return np.stack(
            [np.array(x), *(np.array(s.x) for s in solve("rk4", self.velocity, x, times, self.path))]
        )

    def log_density(
        self, points: np.ndarray, solver: str = "midpoint", times=None, **settings
    ) -> tuple[np.ndarray, int]:
        if times is None:
            times = [t * self.end for t in grid("cosine", 20)[::-1]]
        parts, nfe = [], 0
        for part in np.array_split(points, -(-len(points) // 2500)):
            found = log_likelihood(
                self.velocity, mx.array(part), self.path, solver=solver, times=times, **settings
            )
            parts.append(np.array(found.log_p))
            nfe = found.nfe
        return np.concatenate(parts), nfe


def curvature(states: np.ndarray) -> float:
    """mean |dx/dt - (x_1 - x_0)|^2 / mean |x_1 - x_0|^2 of ways `[states, n, 2]` at even times: 0 for
    straight lines at constant speed (Liu et al. 2022, "Flow Straight and Fast", straightness, over the length)."""
    chord = states[-1] - states[0]
    speed = np.diff(states, axis=0) * (len(states) - 1)
    return float(np.square(speed - chord).sum(2).mean() / np.square(chord).sum(1).mean())


def measured(data: str, path: str, options: Options, folder: Path) -> dict[str, np.ndarray]:
    """A field trained, and all that the report says and shows of it; kept in `folder`, so that it is done
    once."""
    kept = folder / f"toy-{data}-{path}-{'-'.join(map(str, options))}.npz"
    if kept.exists():
        return dict(np.load(kept))
    begun = time.process_time()
    flow = Flow(data, path, options.steps)
    adaptive = {"solver": "dopri5", "rtol": options.tolerance, "atol": options.tolerance}
    found = {"ways": flow.states(options.points // 10)}
    for nfe in NFE:
        found[f"made {nfe}"] = flow.ends(options.points, "midpoint", nfe // 2)[0]
    found["made dopri5"], found["calls"] = flow.ends(options.points, **adaptive)
    found["density"] = flow.log_density(draw.lattice(options.cells))[0]
    fresh = SAMPLERS[data](np.random.default_rng(7), options.judged)
    found["log p"], found["likelihood calls"] = flow.log_density(fresh, times=(flow.end, 0.0), **adaptive)
    found["truth"] = LOG_DENSITIES[data](fresh)
    partial = kept.with_name(f".{kept.name}")
    np.savez(partial, **found)
    partial.rename(kept)
    print(f"{data}, {PATHS[path]}: {time.process_time() - begun:.0f} s of processor time", flush=True)
    return dict(np.load(kept))


def report(options: Options, folder: Path, names: Sequence[str] = tuple(SAMPLERS)) -> tuple[dict, dict]:
    """Figures by file name, and the numbers {data: {path: {...}}}."""
    found = {(data, path): measured(data, path, options, folder) for data in names for path in PATHS}
    shown = {key: one["ways"][:, :LINES] for key, one in found.items()}
    rows = [
        (name, [see(shown[data, path]) for data in names for see in (draw.trajectories, draw.course)])
        for path, name in PATHS.items()
    ]
    columns = [title for data in names for title in (data, "x over time")]
    figures = {"trajectories.png": draw.framed(rows, columns)}
    numbers, rows = {}, []
    kinds = [*map(str, NFE), "dopri5"]
    for (data, path), one in found.items():
        fresh = SAMPLERS[data](np.random.default_rng(6), options.points)
        rows.append(
            (f"{data}\n{PATHS[path]}", [draw.cloud(one[f"made {kind}"][:SHOWN_POINTS]) for kind in SHOWN])
        )
        numbers.setdefault(data, {})[path] = {
            "curvature": curvature(one["ways"]),
            "calls": int(one["calls"]),
            "likelihood calls": int(one["likelihood calls"]),
            "log p": float(one["log p"].mean()),
            "truth": float(one["truth"].mean()),
            "distance": {kind: energy_distance(one[f"made {kind}"], fresh) for kind in kinds},
        }
    figures["samples.png"] = draw.framed(rows, [f"{n} calls" if n != "dopri5" else n for n in SHOWN])
    rows = []
    for data in names:
        truth = LOG_DENSITIES[data](draw.lattice(options.cells))
        panels = [truth] + [found[data, path]["density"] for path in PATHS]
        most = float(np.exp(truth.max()))
        rows.append((data, [draw.heat(p.reshape(options.cells, options.cells), most) for p in panels]))
    figures["density.png"] = draw.framed(rows, ["truth", *PATHS.values()])
    return figures, numbers
