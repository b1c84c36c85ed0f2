"""`mlxflow distill`: a few-step model of a trained one, in a run folder like any other's."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from mlxflow.cli.options import DeviceOption
from mlxflow.cli.train import parse_setting


def distill(
    weights: Annotated[
        Optional[str],
        typer.Argument(
            show_default=False,
            help="The model to learn from: a run, a weights "
            "folder, a .safetensors file or the name of shipped weights. "
            "[required unless --resume]",
        ),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="The pictures that it was trained on. [required unless --resume]", show_default=False
        ),
    ] = None,
    run: Annotated[Path, typer.Option("--run", "-o", help="Run folder: log, samples, checkpoints.")] = Path(
        "runs/few"
    ),
    config: Annotated[
        Optional[Path], typer.Option(help="TOML recipe; flags override it.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the run folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in the run folder.")] = False,
    guidance: Annotated[
        Optional[float],
        typer.Option(
            show_default=False,
            help="Guidance to build in. [default: 3, and 1 for a model that is told nothing]",
        ),
    ] = None,
    steps: Annotated[
        Optional[int], typer.Option(help="Stop at this step of training.", show_default=False)
    ] = None,
    minutes: Annotated[
        Optional[float], typer.Option(help="Stop after so many minutes.", show_default=False)
    ] = None,
    batch: Annotated[
        Optional[int], typer.Option(help="Images a step, over all ranks.", show_default=False)
    ] = None,
    learning_rate: Annotated[
        Optional[float], typer.Option(help="Peak learning rate. [default: 0.0003]", show_default=False)
    ] = None,
    seed: Annotated[
        Optional[int], typer.Option(help="Everything random follows from it.", show_default=False)
    ] = None,
    settings: Annotated[
        Optional[list[str]],
        typer.Option(
            "--set", metavar="NAME=VALUE", show_default=False, help="Any other setting of a recipe."
        ),
    ] = None,
    ranks: Annotated[
        int, typer.Option(help="Processes on this machine that share each batch (Linux CPU: one a core).")
    ] = 1,
    device: DeviceOption = None,
) -> None:
    """Make of a trained model one that draws in one to four steps, its guidance built in.

    It starts from the model's weights and trains like any run: Ctrl-C saves, --resume goes on. How the
    pictures are varied is the model's own recipe, if it is a run. Draw with: mlxflow sample RUN --steps 1

    Example: mlxflow distill runs/digits --data mnist/ -o runs/digits-few --steps 2000
    """
    from mlxflow.errors import MlxflowError
    from mlxflow.training.launch import run_ranks, under_launcher

    if weights is None and not resume:
        raise MlxflowError("Say which model to learn from: mlxflow distill WEIGHTS --data FOLDER.")
    if ranks != 1 and not under_launcher():
        raise typer.Exit(run_ranks(ranks, sys.argv[1:]))

    from mlxflow.training.start import read_run, start

    flags = {
        "teacher": weights,
        "guidance": guidance,
        "steps": steps,
        "minutes": minutes,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    flags = {name: value for name, value in flags.items() if value is not None}
    flags |= dict(parse_setting(text) for text in settings or ())
    checkpoint = start(run, data=data, recipe=config, flags=flags, resume=resume, force=force)
    if checkpoint is not None:
        words = read_run(run)["train"]["model"]["kind"] == "text-unet"
        draw = f'generate "smiling cat" --weights {run}' if words else f"sample {run} -n 16 -o few.png"
        print(f"{checkpoint}\nTry it: mlxflow {draw} --steps 1")
