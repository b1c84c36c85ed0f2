"""`mlxflow train`: parse, make or reopen the run folder, train, say where the result is."""

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Optional

import typer

from mlxflow.cli.options import DeviceOption


def parse_setting(text: str) -> tuple[str, object]:
    """"name=value" with a TOML value; a bare word is a string."""
    from mlxflow.errors import MlxflowError

    name, equals, value = text.partition("=")
    if not equals:
        raise MlxflowError(f"--set wants NAME=VALUE, not '{text}'.")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def train(
    data: Annotated[Optional[Path], typer.Option(help="Folder of pictures with captions or classes. [required unless --resume]",
                                                 show_default=False)] = None,
    run: Annotated[Path, typer.Option("--run", "-o", help="Run folder: log, samples, checkpoints.")] = Path("runs/emoji"),
    config: Annotated[Optional[Path], typer.Option(help="TOML recipe; flags override it.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the run folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in the run folder.")] = False,
    init: Annotated[Optional[Path], typer.Option(help="Weights to start from.", show_default=False)] = None,
    steps: Annotated[Optional[int], typer.Option(help="Stop at this step.", show_default=False)] = None,
    epochs: Annotated[Optional[float], typer.Option(help="Stop after so many passes over the data.",
                                                    show_default=False)] = None,
    minutes: Annotated[Optional[float], typer.Option(help="Stop after so many minutes.", show_default=False)] = None,
    batch: Annotated[Optional[int], typer.Option(help="Images a step, over all ranks.", show_default=False)] = None,
    learning_rate: Annotated[Optional[float], typer.Option(help="Peak learning rate.", show_default=False)] = None,
    optimizer: Annotated[Optional[str], typer.Option(help="adamw or muon.", show_default=False)] = None,
    seed: Annotated[Optional[int], typer.Option(help="Everything random follows from it.", show_default=False)] = None,
    settings: Annotated[Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", show_default=False,
                                                          help="Any other setting of a recipe.")] = None,
    ranks: Annotated[int, typer.Option(help="Processes on this machine that share each batch (Linux CPU: one a core).")] = 1,
    device: DeviceOption = None,
) -> None:
    """Train a model on a folder of pictures, or go on with a run.

    Example: mlxflow data emoji emoji/ && mlxflow train --data emoji/ --minutes 30
    """
    from mlxflow.training.launch import run_ranks, under_launcher

    if ranks != 1 and not under_launcher():
        raise typer.Exit(run_ranks(ranks, sys.argv[1:]))

    from mlxflow.training.start import start

    flags = {"steps": steps, "epochs": epochs, "minutes": minutes, "batch": batch, "learning_rate": learning_rate,
             "optimizer": optimizer, "seed": seed}
    flags = {name: value for name, value in flags.items() if value is not None}
    flags |= dict(parse_setting(text) for text in settings or ())
    checkpoint = start(run, data=data, recipe=config, flags=flags, resume=resume, force=force, init=init)
    if checkpoint is not None:
        print(f"{checkpoint}\n{_advice(run)}")


def _advice(run: Path) -> str:
    """What to do with a run of its kind."""
    from mlxflow.training.start import read_run

    kind = read_run(run)["train"]["model"]["kind"]
    if kind == "text-unet":
        return f"Try it: mlxflow generate \"smiling cat\" --weights {run}"
    if kind in ("kl-vae", "vq-vae"):
        return f"Train in its latent space: mlxflow train --set autoencoder={run} --config RECIPE --data FOLDER"
    return f"Try it: mlxflow sample {run} -n 16 -o sample.png"
