"""The story of the Flow Matching paper (Lipman et al. 2023) on a laptop: straight paths against diffusion
paths.

    mlxflow data mnist mnist/
    python -m apps.paper.report --data mnist/ --out runs/paper

Two-dimensional data whose density is known, and MNIST; one network for both paths in each. Writes report.md
with its figures. Stopped at any time, the same command goes on. Without --data, the two-dimensional part
alone; --quick tries everything on a few steps.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from apps.experiment import figure, position, recipe_values, table, train
from apps.paper import draw, toy
from apps.paper.toys import SAMPLERS
from mlxflow import weights
from mlxflow.data.labelled import open_labelled, to_rgba, to_unit
from mlxflow.errors import MlxflowError
from mlxflow.flow.likelihood import bits_per_dim
from mlxflow.flow.solvers import solve
from mlxflow.runtime import mx

HERE = Path(__file__).parent
# As the paper solves for samples; a likelihood's state, 784 numbers beside a sum of thousands, needs less.
SAMPLING, LIKELIHOOD = 1e-5, 1e-3
GRID, COLUMNS = 48, 16


def digits(data: Path, out: Path, steps: int, images: int, samples: int) -> tuple[dict, dict]:
    """MNIST along both paths: figures, and the numbers of each path."""
    recipe = HERE / "mnist.toml"
    model = recipe_values(recipe)["model"]
    parts = open_labelled(data, model["image_size"], model["channels"])
    test = parts["val"].take(np.linspace(0, len(parts["val"]) - 1, images).astype(int))
    x = mx.array(to_unit(test.images))
    rows, numbers = [], {}
    for path, name in toy.PATHS.items():
        run = out / f"mnist-{path}"
        train(run, data, recipe, steps=steps, settings={"path": path})
        kept = run / f"measured-{position(run)['step']}-{images}-{samples}.json"
        trained = weights.load(run, mx.float32)
        flow, end, velocity = weights.path_of(trained.config["process"]), toy.END[path], trained.velocity()
        field = lambda x, t, velocity=velocity: velocity(x, t, ())  # noqa: E731
        noise = mx.array(
            np.random.default_rng(0).standard_normal((GRID, *trained.network.shape)).astype(np.float32)
        )
        *_, made = solve("dopri5", field, flow.start(noise), [0, end], flow, rtol=SAMPLING, atol=SAMPLING)
        rows.append((f"{name}, {made.nfe} calls", to_rgba(np.array(made.x))))
        if not kept.exists():
            settings = {"times": (end, 0.0), "rtol": LIKELIHOOD, "atol": LIKELIHOOD}
            # Each of the K samples alone, so that their means for 1, 2, ... K are of the same draws.
            found = bits_per_dim(field, x, flow, key=mx.random.key(1), samples=samples, **settings)
            one = bits_per_dim(field, x, flow, key=mx.random.key(1), samples=1, **settings)
            kept.write_text(
                json.dumps(
                    {
                        "calls": made.nfe,
                        "bits": found.mean,
                        "error": found.standard_error,
                        "bits of one": one.mean,
                        "steps": position(run)["step"],
                    }
                )
            )
        numbers[path] = json.loads(kept.read_text())
        print(f"MNIST, {name}: {numbers[path]}", flush=True)
    together = [
        (name if i == 0 else "", pictures[i : i + COLUMNS])
        for name, pictures in rows
        for i in range(0, GRID, COLUMNS)
    ]
    return {"mnist.png": figure(together)}, numbers


def markdown(numbers: dict, mnist: dict | None, chosen: toy.Options, options) -> str:
    text = [
        "## Two-dimensional data",
        "",
        f"One network (`small.py`, {chosen.steps:,} steps of {toy.BATCH} points) for each data set and path. "
        "*Curvature*: 0 for straight lines at constant speed (`toy.curvature`). *Calls*: of the "
        f"network, by dopri5 with tolerances of {chosen.tolerance:g}. *Log-likelihood*: mean of "
        f"{chosen.judged} fresh points in nats, exact "
        "trace, beside that of the true density.",
        "",
        "![Trajectories](trajectories.png)",
        "",
    ]
    head = ["data", "path", "curvature", "calls, samples", "calls, likelihood", "log-likelihood", "truth"]
    rows = [
        [
            data,
            toy.PATHS[path],
            f"{n['curvature']:.2f}",
            n["calls"],
            n["likelihood calls"],
            f"{n['log p']:.3f}",
            f"{n['truth']:.3f}",
        ]
        for data, both in numbers.items()
        for path, n in both.items()
    ]
    text += [
        table(head, rows),
        "",
        "![Samples by the number of calls](samples.png)",
        "",
        "Energy distance of samples to fresh data, by calls of the network (midpoint, and dopri5); two draws "
        "of the data\nthemselves are 0 to 0.04 apart:",
        "",
    ]
    kinds = list(next(iter(next(iter(numbers.values())).values()))["distance"])
    rows = [
        [data, toy.PATHS[path], *(f"{n['distance'][k]:.3f}" for k in kinds)]
        for data, both in numbers.items()
        for path, n in both.items()
    ]
    text += [table(["data", "path", *map(str, kinds)], rows), "", "![Densities](density.png)", ""]
    if mnist:
        head = ["path", "bits/dim, K = 1", f"bits/dim, K = {options.samples}", "calls, samples"]
        rows = [
            [toy.PATHS[path], f"{n['bits of one']:.3f}", f"{n['bits']:.3f} ± {n['error']:.3f}", n["calls"]]
            for path, n in mnist.items()
        ]
        steps = next(iter(mnist.values()))["steps"]
        text += [
            "## MNIST",
            "",
            f"One network (mnist.toml) for each path, {steps:,} steps. Bits per dimension of "
            f"{options.images} test pictures (mean and standard error over them), dequantised with K "
            "samples, one "
            "probe for the trace; samples and their calls by dopri5 with tolerances of "
            f"{SAMPLING:g}.",
            "",
            table(head, rows),
            "",
            "![Samples](mnist.png)",
            "",
        ]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="MNIST's folder; without it the two-dimensional part alone")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument(
        "--toy-steps", type=int, default=toy.Options().steps, help="of each two-dimensional field"
    )
    parser.add_argument("--toy", choices=SAMPLERS, action="append", help="only this two-dimensional data set")
    parser.add_argument("--steps", type=int, default=0, help="of each MNIST run, other than the recipe's")
    parser.add_argument("--images", type=int, default=24, help="test pictures whose bits are measured")
    parser.add_argument("--samples", type=int, default=3, help="K, the dequantisation samples of each")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to try the command")
    options = parser.parse_args()
    chosen = toy.Options(options.toy_steps)
    if options.quick:
        chosen, options.steps, options.images, options.samples = toy.QUICK, 2, 2, 2
    begun = time.process_time()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        figures, numbers = toy.report(chosen, options.out, options.toy or list(SAMPLERS))
        mnist = None
        if options.data:
            steps = options.steps or recipe_values(HERE / "mnist.toml")["steps"]
            more, mnist = digits(options.data, options.out, steps, options.images, options.samples)
            figures |= more
        for name, image in figures.items():
            draw.small(image).save(options.out / name, optimize=True)
        (options.out / "report.md").write_text(markdown(numbers, mnist, chosen, options), encoding="utf-8")
        print(
            f"{options.out / 'report.md'}\n{(time.process_time() - begun) / 60:.1f} minutes of processor time"
        )
    except MlxflowError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
