"""U-Net, DiT and Mamba side by side: one process, one recipe, three networks, two comparisons.

    python -m apps.mnist_architectures.compare --data mnist/ --out runs/architectures

Trains each network for the same number of steps, then those that are quicker until all have had the time of the
slowest; judges both by a classifier that is trained here too; and leaves report.md with its figures in the run folder.
The networks take turns of a quarter of the steps, so that what else the machine does falls on all of them alike.
Stopped at any time, the same command goes on. `--part fashion` repeats the first comparison on Fashion-MNIST,
`--part predictions` trains one network to predict velocity, data and noise, and `--part few` makes a few-step model of
the U-Net.
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path

import numpy as np

from apps.experiment import (figure, reader, recipe_values, snapshot, speed, table, train, training_loss,
                             write_report)
from apps.mnist_architectures.few import few
from mlxflow.data.labelled import open_labelled, to_rgba
from mlxflow.errors import MlxflowError
from mlxflow.evaluation.classifier import Judge, standard_error
from mlxflow.runtime import device, mx
from mlxflow.sampling.classes import ClassSampler
from mlxflow.sampling.pipeline import Settings
from mlxflow.training.validation import validation_loss

from mlx.utils import tree_flatten

HERE = Path(__file__).parent
MAIN = ("U-Net", "DiT", "Mamba")
PARTS = ("steps", "time", "fashion", "predictions", "few")
GUIDANCES = (1.0, 3.0, 5.0)
SAMPLE_STEPS, SHOWN = 8, 1
TURNS = 4
# michaelbzhu/mnist_flow_matching: the loss of the last steps of 5,000 x 250, summed over 1024 pixels.
PUBLISHED = {"U-Net": (131.15, "1.23M"), "DiT": (123.94, "16.9M"), "Mamba, one direction": (154.31, "4.23M")}


def folder_name(network: str) -> str:
    return network.lower().replace(", ", "-").replace(" ", "-")


def drawn(sampler: ClassSampler, count: int, guidance: float) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures of the classes in turn, float32, and the classes; the same noise for every network."""
    labels = np.arange(count) % len(sampler.names)
    settings = Settings(SAMPLE_STEPS, "heun", guidance)
    parts = [d.values for d in sampler.draw(labels.tolist(), count, 0, settings, batch=50)]
    return np.concatenate(parts), labels


def measured(weights: Path, judge_: Judge, fixed, count: int) -> dict:
    """Everything that the table says of one set of weights; kept beside it, so that it is done once."""
    kept = weights.with_suffix(".json")
    if kept.exists():
        return json.loads(kept.read_text())
    sampler = ClassSampler.load(weights)
    made = {"parameters": sum(a.size for _, a in tree_flatten(sampler.network.parameters()))}
    process = sampler.model.config["process"]
    made["validation"] = validation_loss(mx.compile(sampler.network), process, *fixed)["loss"]
    for guidance in (1.0, 3.0):
        images, labels = drawn(sampler, count, guidance)
        made[f"scores {guidance:g}"] = judge_.scores(images, labels)
    kept.write_text(json.dumps(made))
    return made


def sheet(weights: dict[str, Path], guidances=GUIDANCES):
    """Rows of the classes in turn, a network and a guidance each."""
    rows = []
    for name, file in weights.items():
        sampler = ClassSampler.load(file)
        for guidance in guidances:
            images, _ = drawn(sampler, SHOWN * len(sampler.names), guidance)
            rows.append((f"{name}, guidance {guidance:g}", to_rgba(images)))
    return figure(rows, scale=2)


class Comparison:
    """The runs and results of one part, in a folder of their own."""

    def __init__(self, options, part: str):
        self.options, self.part = options, part
        self.out = options.out / {"steps": "mnist", "time": "mnist"}.get(part, part)
        self.data = options.fashion if part == "fashion" else options.data
        if self.data is None:
            raise MlxflowError("Say where Fashion-MNIST is with --fashion FOLDER (`mlxflow data fashion fashion/` gets it).")
        self.recipe = HERE / ("recipe.toml" if options.full else "laptop.toml")
        self.values = recipe_values(self.recipe)
        self.steps = options.steps or self.values["steps"]
        model = self.values["model"]
        self.frame = {n: model[n] for n in ("image_size", "channels")}
        networks = tomllib.loads((HERE / "networks.toml").read_text(encoding="utf-8"))["full" if options.full else "laptop"]
        self.networks = {n: networks[n] | self.frame for n in networks}
        self.parts = open_labelled(self.data, self.frame["image_size"], self.frame["channels"])

    def judge(self) -> Judge:
        return reader(self.parts, self.options.judge_steps)

    def fixed(self):
        from mlxflow.training.dataset import LabelDataset

        return LabelDataset(self.parts, len(self.parts["train"].names)).fixed["val"]

    def train(self, name: str, model: dict, steps: int, **settings) -> Path:
        run = self.out / folder_name(name)
        # Without a sheet every thousand steps: the report draws its own.
        given = {"model": model, "sample_every": 10 * self.steps,
                 "log_every": max(1, min(self.values["log_every"], self.steps // 10)), **settings}
        train(run, self.data, self.recipe, ranks=self.options.ranks, steps=steps, settings=given)
        return run

    def weights(self, name: str, when: str) -> Path:
        return self.out / f"{folder_name(name)}-{when}.safetensors"

    def equal_steps(self, models: dict[str, dict], **settings) -> dict[str, Path]:
        """The networks' weights after the same number of steps, and beside each how many pictures a second it saw."""
        for turn in range(1, TURNS + 1):
            for name, model in models.items():
                file = self.weights(name, "steps")
                if file.exists():
                    continue
                own = {key: value[name] for key, value in settings.items()}
                run = self.train(name, model, self.steps * turn // TURNS, **own)
                if turn == TURNS:
                    file.with_suffix(".speed").write_text(str(speed(run)))
                    snapshot(run, file)
        return {name: self.weights(name, "steps") for name in models}

    def speed(self, name: str) -> float:
        """Median images a second of the equal steps."""
        return float(self.weights(name, "steps").with_suffix(".speed").read_text())

    def equal_time(self, names) -> tuple[dict[str, Path], dict[str, int], float]:
        """The networks' weights after as many steps as each does while the slowest does the recipe's, those numbers of
        steps, and that time in seconds. The median speeds count, so neither a busy minute nor compiling does."""
        speeds = {name: self.speed(name) for name in names}
        slowest = min(speeds, key=speeds.get)
        steps = {name: round(self.steps * speeds[name] / speeds[slowest]) for name in names}
        files = {name: self.weights(name, "steps" if name == slowest else "time") for name in names}
        for name, file in files.items():
            if not file.exists():
                snapshot(self.train(name, self.networks[name], steps[name]), file)
        return files, steps, self.steps * self.values["batch"] / speeds[slowest]

    def row(self, name: str, file: Path, judge_: Judge, fixed, until: int | None = None) -> list:
        run, m = self.out / folder_name(name), measured(file, judge_, fixed, self.options.count)
        loss = training_loss(run, until=until)
        numbers = self.frame["image_size"] ** 2 * self.frame["channels"]
        three, one = m["scores 3"], m["scores 1"]
        share = three["read as asked"]
        error = standard_error(share, self.options.count)
        return [name, f"{m['parameters'] / 1e6:.2f}M", round(self.speed(name)), f"{loss:.4f}", f"{loss * numbers:.1f}",
                f"{m['validation']:.4f}", f"{100 * one['read as asked']:.1f} %",
                f"{100 * share:.1f} ± {100 * error:.1f} %", f"{one['frechet']:.1f}"]


HEAD = ["network", "parameters", "images/s", "training loss", "summed", "validation", "read, guidance 1",
        "read, guidance 3", "Fréchet"]


def title(c: Comparison) -> str:
    return "Fashion-MNIST" if c.part == "fashion" else "MNIST"


def equal_steps(options, part: str) -> str:
    """The Markdown of the comparison after equal steps, on digits or on clothes; its figure is written beside it."""
    c = Comparison(options, part)
    names = [*MAIN, "Mamba, one direction"] if options.one_direction else list(MAIN)
    files = c.equal_steps({name: c.networks[name] for name in names})
    judge_, fixed = c.judge(), c.fixed()
    rows = [c.row(name, file, judge_, fixed, until=c.steps) for name, file in files.items()]
    batch = c.values["batch"]
    share = 100 * c.steps * batch / (5000 * 250)
    sheet(files).save(options.out / f"{part}.png", optimize=True)
    text = [f"## {title(c)}, equal steps", "",
            f"{c.steps:,} steps of {batch} pictures ({share:.1f} % of the original's 5,000 x 250), "
            f"{c.frame['image_size']}x{c.frame['image_size']} pixels, {c.values['prediction']} prediction. The classifier "
            f"that reads the {options.count} pictures a cell reads {100 * judge_.accuracy:.2f} % of the test set right.",
            "", table(HEAD, rows), "", f"![{title(c)} after equal steps]({part}.png)", ""]
    if part == "steps":
        published = [[name, size, loss] for name, (loss, size) in PUBLISHED.items()]
        text += ["The original's losses, summed over 1024 pixels, at 5,000 x 250 with other sizes of network:", "",
                 table(["network", "parameters", "summed loss"], published), ""]
    return "\n".join(text)


def equal_time(options) -> str:
    """The same after equal time."""
    c = Comparison(options, "time")
    c.equal_steps({name: c.networks[name] for name in MAIN})
    judge_, fixed = c.judge(), c.fixed()
    files, steps, seconds = c.equal_time(MAIN)
    rows = [[*c.row(name, file, judge_, fixed, until=steps[name]), steps[name]] for name, file in files.items()]
    sheet(files).save(options.out / "time.png", optimize=True)
    return "\n".join([
        f"## {title(c)}, equal time", "",
        f"The steps that each does in the {seconds / 60:.1f} minutes of the slowest, at the median speeds of above, "
        f"with {options.ranks} process{'es' if options.ranks > 1 else ''} on {device()}.", "",
        table([*HEAD, "steps"], rows), "", f"![{title(c)} after equal time](time.png)", ""])


def predictions(options) -> str:
    """One network, three things to predict; validation and pictures compare, training losses do not. The one that
    predicts the recipe's is that of the equal steps."""
    c, first = Comparison(options, "predictions"), Comparison(options, "steps")
    network, own = c.networks["U-Net"], c.values["prediction"]
    kinds = [kind for kind in ("velocity", "data", "noise") if kind != own]
    files = {own: first.equal_steps({"U-Net": network})["U-Net"]}
    files |= c.equal_steps({kind: network for kind in kinds}, prediction={kind: kind for kind in kinds})
    judge_, fixed = c.judge(), c.fixed()
    rows = []
    for kind, file in files.items():
        m = measured(file, judge_, fixed, options.count)
        rows.append([kind, f"{m['validation']:.4f}", *(f"{100 * m[f'scores {g}']['read as asked']:.1f} %" for g in (1, 3)),
                     f"{m['scores 1']['frechet']:.1f}"])
    sheet(files, (1.0, 3.0)).save(options.out / "predictions.png", optimize=True)
    return "\n".join(["## What to predict", "", f"The U-Net on MNIST, {c.steps:,} steps of {c.values['batch']}.", "",
                      table(["prediction", "validation", "read, guidance 1", "read, guidance 3", "Fréchet"], rows), "",
                      "![What to predict](predictions.png)", ""])


def few_steps(options) -> str:
    """A few-step model of the U-Net after equal steps."""
    c = Comparison(options, "steps")
    teacher = c.equal_steps({"U-Net": c.networks["U-Net"]})["U-Net"]
    return few(teacher, options.out / "few", c.data, HERE / "few.toml", c.judge(), count=options.count, ranks=options.ranks)


NOTES = """\
Training loss: mean over the last 500 steps, a number (pixel), and summed over all of them. Validation: the project's
fixed noise and times, min(1 / (1 - t)^2, 5) |x1_hat - x1|^2, whatever is predicted. Read: the share of generated
pictures that the classifier reads as the class asked for. Fréchet: between this classifier's features of generated
pictures (guidance 1) and of the test set; it is not FID and compares within this report only.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="MNIST's folder")
    parser.add_argument("--fashion", type=Path, help="Fashion-MNIST's folder")
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--part", choices=PARTS, action="append", help="default: steps and time; may be given several times")
    parser.add_argument("--full", action="store_true", help="recipe.toml, the original's length, instead of laptop.toml")
    parser.add_argument("--one-direction", action="store_true", help="also the one-direction Mamba, as the original's")
    parser.add_argument("--steps", type=int, default=0, help="other than the recipe's")
    parser.add_argument("--count", type=int, default=300, help="pictures a network and guidance that are judged")
    parser.add_argument("--judge-steps", type=int, default=1400, help="length of the classifier's training")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share each batch")
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for part in options.part or ["steps", "time"]:
            make = {"time": equal_time, "predictions": predictions, "few": few_steps}.get(part)
            text = make(options) if make else equal_steps(options, part)
            (options.out / f"{part}.part.md").write_text(text, encoding="utf-8")
            # What earlier parts found stays in the report.
            done = [options.out / f"{name}.part.md" for name in PARTS]
            sections = [file.read_text(encoding="utf-8") for file in done if file.exists()]
            write_report(options.out, "\n".join([*sections, NOTES]), {})
    except MlxflowError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
