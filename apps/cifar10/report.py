"""A class-conditional DiT on small photographs: training, class grids, what recomputing saves, solvers.

    python -m apps.cifar10.report --data cifar10/ --out runs/cifar10

Trains for the recipe's steps (or goes on, or finds that it is done) and leaves report.md with its figures in the run
folder's parent. `--note` goes into the report: say there what the data were if they were not the official ones.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from apps.experiment import figure, log, position, recipe_values, speed, table, train, training_loss, write_report
from mlxflow.data.labelled import open_labelled, to_rgba, to_unit
from mlxflow.errors import MlxflowError
from mlxflow.networks import build
from mlxflow.runtime import device, mx
from mlxflow.sampling.classes import ClassSampler
from mlxflow.sampling.pipeline import Settings

from mlx.utils import tree_flatten, tree_unflatten

HERE = Path(__file__).parent
PER_CLASS = 8


def recompute_costs(model: dict, batch: int = 16) -> list[list]:
    """Peak memory and seconds of one step's gradients, with the blocks' insides kept and recomputed."""
    rows = []
    for recompute in (False, True):
        mx.random.seed(0)
        network = build(model)
        network.recompute = recompute
        arrays = dict(tree_flatten(network.parameters()))
        x, t = mx.random.normal((batch, *network.shape)), mx.linspace(0.1, 0.9, batch)
        label = mx.zeros((batch,), dtype=mx.int32)

        def loss(arrays):
            network.update(tree_unflatten(list(arrays.items())))
            return mx.square(network(x, t, label) - x).mean()

        gradient = mx.grad(loss)
        mx.eval(arrays, x, t, gradient(arrays))
        mx.reset_peak_memory()
        before, begun = mx.get_active_memory(), time.perf_counter()
        mx.eval(gradient(arrays))
        rows.append(["recomputed" if recompute else "kept", f"{(mx.get_peak_memory() - before) / 1e6:.0f} MB",
                     f"{time.perf_counter() - begun:.2f} s"])
    return rows


def grid(sampler: ClassSampler, guidance: float):
    labels = np.repeat(np.arange(len(sampler.names)), PER_CLASS).tolist()
    values = np.concatenate([d.values for d in sampler.draw(labels, len(labels), 0, Settings(12, "heun", guidance))])
    pictures = to_rgba(values).reshape(len(sampler.names), PER_CLASS, *values.shape[1:3], 4)
    return figure(list(zip(sampler.names, pictures)), scale=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10's folder, or one of DIR/class_name/*.png")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--full", action="store_true", help="recipe.toml instead of laptop.toml")
    parser.add_argument("--steps", type=int, default=0, help="other than the recipe's")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share each batch")
    parser.add_argument("--note", default="", help="a sentence for the report")
    options = parser.parse_args()
    recipe = HERE / ("recipe.toml" if options.full else "laptop.toml")
    values = recipe_values(recipe)
    try:
        parts = open_labelled(options.data, values["model"]["image_size"], values["model"]["channels"])
        run = options.out / "run"
        steps = options.steps or values["steps"]
        train(run, options.data, recipe, ranks=options.ranks, steps=steps)
        at, sampler = position(run), ClassSampler.load(run)
        count = sum(a.size for _, a in tree_flatten(sampler.network.parameters()))
        validations = [line for line in log(run) if "val" in line]
        rows = [["parameters", f"{count / 1e6:.2f}M"], ["training pictures", len(parts["train"])],
                ["steps", f"{at['step']:,} of {values['batch']}"], ["pictures seen", at["images"]],
                ["training time", f"{at['seconds'] / 60:.1f} min on {device()}, {options.ranks} process(es)"],
                ["images/s", round(speed(run))], ["training loss, last 500 steps", f"{training_loss(run):.4f}"]]
        if validations:
            rows.append(["validation loss", f"{validations[-1]['val']['loss']:.4f} (val), "
                         f"{validations[-1]['seen']['loss']:.4f} (seen)"])
        real = []
        for i, name in enumerate(sampler.names):
            chosen = parts["train"].take(np.flatnonzero(parts["train"].labels == i)[:PER_CLASS])
            real.append((name, to_rgba(to_unit(chosen.images))))
        figures = {"guidance-1.png": grid(sampler, 1.0), "guidance-3.png": grid(sampler, 3.0),
                   "real.png": figure(real, scale=2)}
        memory = table(["inside of the blocks", "peak memory beside the weights", "time of one gradient, batch 16"],
                       recompute_costs(sampler.model.config["model"]))
        text = REPORT.format(rows=table(["", "value"], rows), memory=memory, note=options.note)
        write_report(options.out, text, figures)
    except MlxflowError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


REPORT = """\
{note}

{rows}

Eight of each class, from the same noise; guidance 3, then the plain model, then pictures of the data.

![Guidance 3](guidance-3.png)
![Guidance 1](guidance-1.png)
![The data](real.png)

## What recomputing saves

{memory}
"""


if __name__ == "__main__":
    main()
