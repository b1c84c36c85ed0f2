"""Digits from a latent space: two autoencoders, a flow in the latents of one, and the same flow on pixels.

    python -m apps.mnist_latent.report --data mnist/ --out runs/mnist_latent

Trains what is not trained yet and leaves report.md with its figures in the run folder. Stopped at any time, the same
command goes on.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from apps.experiment import figure, position, reader, recipe_values, snapshot, speed, table, train, write_report
from mlxflow import weights
from mlxflow.data.labelled import Labelled, open_labelled, to_rgba, to_unit
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.sampling.classes import ClassSampler
from mlxflow.sampling.pipeline import Settings
from mlxflow.training.reconstruction import reconstruction_scores

HERE = Path(__file__).parent
STAGES = (1, 5, 25, 50, 100)
SHOWN, TESTED = 20, 1000


def autoencoders(options, test: Labelled) -> tuple[str, dict]:
    """Trains both; their table, and a figure of digits and what comes back of them."""
    rows, pictures = [], [("digits of the test set", to_rgba(to_unit(test.images[:SHOWN])))]
    images = to_unit(test.images[:TESTED])
    for kind in ("kl", "vq"):
        run, recipe = options.out / kind, HERE / f"{kind}.toml"
        steps = min(options.limit, recipe_values(recipe)["steps"])
        at = train(run, options.data, recipe, ranks=options.ranks, steps=steps)
        network = weights.load(run).network
        scores = reconstruction_scores(network, images)
        back = np.concatenate([np.array(network.pictures(network.latents(mx.array(images[:SHOWN]))))])
        side, _, numbers = network.latent_shape
        if kind == "kl":
            name, extra = "KL-VAE", f"KL {scores['kl']:.1f} nats a digit"
        else:
            name, extra = "VQ-VAE", f"perplexity {scores['perplexity']:.0f} of {network.config.codes}"
        rows.append([name, f"{side}x{side}x{numbers}", f"{scores['psnr']:.2f} dB", extra, f"{at['seconds'] / 60:.1f} min"])
        pictures.append((f"{name}: {scores['psnr']:.1f} dB, {extra}", to_rgba(back)))
    head = ["autoencoder", "latents", f"PSNR on {TESTED:,} test digits", "", "training"]
    return table(head, rows), {"reconstructions.png": figure(pictures)}


def stages(options, steps: int) -> dict[int, Path]:
    """The latent model at each share of its training, as lone files. In between the pixel model trains a little, so
    that the two speeds are measured while the machine does the same beside them."""
    made, run = {}, options.out / "latent"
    for percent in STAGES:
        file = options.out / "stages" / f"{percent:03d}" / "model.safetensors"
        wanted = max(1, steps * percent // 100)
        if not file.exists():
            train(run, options.data, options.recipe, ranks=options.ranks, steps=wanted,
                  settings={"autoencoder": str(options.out / "kl")})
            snapshot(run, file)
            snapshot_autoencoder(run, file.parent)
        train(options.out / "pixel", options.data, HERE / "pixel.toml", ranks=options.ranks, steps=max(1, wanted // 8))
        made[percent] = file
    return made


def snapshot_autoencoder(run: Path, folder: Path) -> None:
    (folder / weights.AUTOENCODER).write_bytes((run / weights.AUTOENCODER).read_bytes())


def digits(sampler: ClassSampler, count: int, guidance: float | None, **settings) -> tuple[np.ndarray, np.ndarray, int]:
    """Values, classes asked for, and NFE; guidance None draws without a class."""
    labels = np.arange(count) % 10
    asked = None if guidance is None else labels.tolist()
    chosen = Settings(**({"steps": 8, "solver": "heun", "guidance": guidance or 1.0} | settings))
    parts = list(sampler.draw(asked, count, 0, chosen, batch=50))
    return np.concatenate([d.values for d in parts]), labels, max(d.nfe for d in parts)


def growth(files: dict[int, Path], steps: int) -> dict:
    """Figures of digits at each share of the training, without a class and of each class."""
    free, asked = [], []
    for percent, file in files.items():
        sampler = ClassSampler.load(file)
        name = f"{percent} % ({max(1, steps * percent // 100):,} steps)"
        free.append((name, to_rgba(digits(sampler, SHOWN, None)[0])))
        asked.append((name, to_rgba(digits(sampler, SHOWN, 3.0)[0])))
    return {"unconditional.png": figure(free), "classes.png": figure(asked)}


def adaptive(sampler: ClassSampler, judge_) -> str:
    rows = []
    for solver, settings in (("euler", {"steps": 12}), ("heun", {"steps": 6}), ("heun", {"steps": 24}),
                             ("dopri5", {"steps": 2})):
        images, labels, nfe = digits(sampler, 100, 3.0, solver=solver, **settings)
        name = "dopri5, adaptive" if solver == "dopri5" else f"{solver}, {settings['steps']} steps"
        rows.append([name, nfe, f"{100 * judge_.scores(images, labels)['read as asked']:.0f} %"])
    return table(["solver", "NFE", "read as asked, of 100"], rows)


def versus(options, judge_, steps: int) -> tuple[str, dict]:
    """The latent model beside the pixel model after as many steps as that does in the same time."""
    latent, run = options.out / "latent", options.out / "pixel"
    kept = run / "steps.txt"
    if not kept.exists():
        kept.write_text(str(round(steps * speed(run) / speed(latent))))
    train(run, options.data, HERE / "pixel.toml", ranks=options.ranks, steps=int(kept.read_text()))
    rows, pictures = [], []
    for name, place in (("latent", latent), ("pixel", run)):
        sampler = ClassSampler.load(place)
        images, labels, _ = digits(sampler, options.count, 3.0)
        plain, _, _ = digits(sampler, options.count, 1.0)
        scores, one = judge_.scores(images, labels), judge_.scores(plain, labels)
        rows.append([name, position(place)["step"], round(speed(place)), f"{100 * one['read as asked']:.1f} %",
                     f"{100 * scores['read as asked']:.1f} %", f"{one['frechet']:.1f}"])
        pictures.append((f"{name} space, guidance 3", to_rgba(images[:SHOWN])))
    head = ["space", "steps", "images/s", "read, guidance 1", "read, guidance 3", "Fréchet"]
    return table(head, rows), {"pixel-latent.png": figure(pictures)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="MNIST's folder (or Fashion-MNIST's)")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_latent"))
    parser.add_argument("--full", action="store_true", help="recipe.toml instead of laptop.toml")
    parser.add_argument("--limit", type=int, default=10**9, help="at most so many steps a model")
    parser.add_argument("--count", type=int, default=300, help="digits that are judged")
    parser.add_argument("--judge-steps", type=int, default=1400, help="length of the classifier's training")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share each batch")
    options = parser.parse_args()
    options.recipe = HERE / ("recipe.toml" if options.full else "laptop.toml")
    try:
        parts = open_labelled(options.data, 32, 1)
        made, figures = autoencoders(options, parts["val"])
        sections = [THERE_AND_BACK.format(autoencoders=made)]
        # Written as far as it is, so that a report which is stopped has what was found.
        write_report(options.out, "\n".join(sections), figures)
        steps = min(options.limit, recipe_values(options.recipe)["steps"])
        files = stages(options, steps)
        judge_ = reader(parts, options.judge_steps)
        figures |= growth(files, steps)
        sampler = ClassSampler.load(files[100])
        sections.append(FLOW.format(steps=steps, scale=sampler.scale, accuracy=100 * judge_.accuracy,
                                    solvers=adaptive(sampler, judge_)))
        write_report(options.out, "\n".join(sections), figures)
        spaces, more = versus(options, judge_, steps)
        minutes = position(options.out / "latent")["images"] / speed(options.out / "latent") / 60
        sections.append(SPACES.format(minutes=minutes, spaces=spaces, count=options.count))
        write_report(options.out, "\n".join(sections), figures | more)
    except MlxflowError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


THERE_AND_BACK = """\
## There and back

{autoencoders}

![Digits and their reconstructions](reconstructions.png)
"""

FLOW = """\
## A flow in the KL-VAE's latents

Latents are made once, scaled by {scale:.4f} and kept. The digits at 1, 5, 25, 50 and 100 % of {steps:,} steps, from the
same noise; first without a class, then of each class with guidance 3.

![Without a class](unconditional.png)
![Of each class](classes.png)

The classifier reads {accuracy:.2f} % of the test set right. Solvers, guidance 3:

{solvers}
"""

SPACES = """\
## Latents against pixels

The steps that each does in {minutes:.1f} minutes, at the median speeds of training by turns.

{spaces}

![Latents and pixels](pixel-latent.png)

Read: the share of {count} generated digits that the classifier reads as the class asked for. Fréchet: between this
classifier's features of generated digits (guidance 1) and of the test set; it is not FID.
"""


if __name__ == "__main__":
    main()
