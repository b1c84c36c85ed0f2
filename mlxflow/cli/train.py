"""`mlxflow train`: parse, make or reopen the run folder, train, say where the result is."""

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Optional

import typer

from mlxflow.cli.options import DeviceOption

DATA, RUN, LENGTH, LEARNING = "Pictures", "Run folder", "Length", "Learning"


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
    data: Annotated[Optional[Path], typer.Option(help="Folder of pictures with captions or classes. [required "
                                                 "unless --resume]",
                                                 show_default=False, rich_help_panel=DATA)] = None,
    run: Annotated[Path, typer.Option("--run", "-o", help="Run folder: log, samples, checkpoints.",
                                            rich_help_panel=RUN)] = Path("runs/emoji"),
    config: Annotated[Optional[Path], typer.Option(help="TOML recipe; flags override it.", show_default=False,
                                            rich_help_panel=LEARNING)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the run folder.",
                                            rich_help_panel=RUN)] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in the run folder.",
                                            rich_help_panel=RUN)] = False,
    init: Annotated[Optional[Path], typer.Option(help="Weights to go on from; without --config a whole model is "
                                            "fine-tuned, and rehearses the embedded emoji (--set rehearsal=0.5).",
                                            show_default=False,
                                            rich_help_panel=LEARNING)] = None,
    steps: Annotated[Optional[int], typer.Option(help="Stop at this step.", show_default=False,
                                            rich_help_panel=LENGTH)] = None,
    epochs: Annotated[Optional[float], typer.Option(help="Stop after so many passes over the data.",
                                                    show_default=False, rich_help_panel=LENGTH)] = None,
    minutes: Annotated[Optional[float], typer.Option(help="Stop after so many minutes.", show_default=False,
                                            rich_help_panel=LENGTH)] = None,
    batch: Annotated[Optional[int], typer.Option(help="Images a step, over all ranks.", show_default=False,
                                            rich_help_panel=LEARNING)] = None,
    learning_rate: Annotated[Optional[float], typer.Option(help="Peak learning rate.", show_default=False,
                                            rich_help_panel=LEARNING)] = None,
    optimizer: Annotated[Optional[str], typer.Option(help="adamw or muon.", show_default=False,
                                            rich_help_panel=LEARNING)] = None,
    seed: Annotated[Optional[int], typer.Option(help="Everything random follows from it.", show_default=False,
                                            rich_help_panel=LEARNING)] = None,
    settings: Annotated[Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", show_default=False,
                                                          help="Any other setting of a recipe.",
                                            rich_help_panel=LEARNING)] = None,
    report: Annotated[int, typer.Option(help="After fine-tuning, ask for so many names of emoji, with the "
                                        "weights of before and after (0: do not ask).", rich_help_panel=LENGTH)] = 64,
    ranks: Annotated[int, typer.Option(help="Processes on this machine that share each batch (Linux CPU: one a core).")] = 1,
    device: DeviceOption = None,
) -> None:
    """Train a model on a folder of pictures, or go on with a run.

    Examples:

      mlxflow data emoji emoji/ && mlxflow train --data emoji/ --minutes 30

      mlxflow train --init emoji --data my_emoji/ --run runs/mine --minutes 5
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
        print(f"{checkpoint}\n{_advice(run)}", flush=True)
        if report:
            _report(run, checkpoint, report)


def _report(run: Path, checkpoint: Path, asked: int) -> None:
    """What a fine-tuned run has learnt and forgotten, if it is one: printed, and written beside the log."""
    import json

    from mlxflow.training.start import read_run

    stored = read_run(run)
    if not stored.get("init") or not stored["train"].get("rehearsal"):
        return
    from mlxflow.training.finetune import lines, report

    print(f"Asking both models for {asked} names (Ctrl-C leaves this out; the run is complete) ...", file=sys.stderr)
    found = report(stored["init"], checkpoint, Path(stored["data"]), asked)
    (run / "before-and-after.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines(found)))


def _advice(run: Path) -> str:
    """What to do with a run of its kind."""
    from mlxflow.training.start import read_run

    config = read_run(run)["train"]
    kind = config["model"]["kind"]
    if kind == "text-unet":
        # After fine-tuning the first prompts are those of the new pictures.
        words = next((prompt for prompt in config["prompts"] if not set(prompt) & set('"$`\\!')), "smiling cat")
        return f"Try it: mlxflow generate \"{words}\" --weights {run}"
    if kind in ("kl-vae", "vq-vae"):
        return f"Train in its latent space: mlxflow train --set autoencoder={run} --config RECIPE --data FOLDER"
    return f"Try it: mlxflow sample {run} -n 16 -o sample.png"
