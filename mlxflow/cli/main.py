"""The `mlxflow` command: a table of commands, each imported only when it runs, so that `--help` is quick.

A command is a module `mlxflow/cli/<name>.py` with either a function `<name>` (its parameters become options) or
a `typer.Typer` called `app` (a command with sub-commands). Adding one is one line in `COMMANDS`.
Exit codes: 0 done; 2 bad usage or a `MlxflowError`, whose sentence is printed; 130 interrupted.
"""

import os
import sys
from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from mlxflow import __version__
from mlxflow.cli.help import GroupedCommand
from mlxflow.errors import MlxflowError

# name: the line that `mlxflow --help` shows
COMMANDS = {
    "generate": "Type a few words, get a picture.",
    "serve": "A page that draws while you type, and an API that OpenAI's clients speak.",
    "edit": "Change a picture: redraw, inpaint, morph, or draw its noise by other words.",
    "sample": "Draw from a model of classes, or of pictures without any.",
    "train": "Train a model on a folder of pictures, or go on with a run.",
    "distill": "Make of a trained model one that draws in one to four steps.",
    "data": "Make the folder of emoji, or look at a folder.",
    "eval": "How well does a model draw what it is asked for? Numbers and a page of pictures.",
    "weights": "Weights by name: list them, add your own, remove them.",
    "convert": "Weights to and from PyTorch, to float16 or 8 bits, or to a function for C++ and Swift.",
    "info": "Versions, device, speed; or what a weights file holds.",
    "floor": "The least loss that any network can reach on a folder of pictures.",
    "parity": "Does a network compute what its PyTorch twin computes, stage by stage?",
    "inspect": "Does a model use the time, the picture and the prompt, or is it blind to one?",
}


def _load(name: str):
    """The real command called `name`, made from its module."""
    module = import_module(f"mlxflow.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, name))
    app.rich_markup_mode = None
    for registered in app.registered_commands:
        registered.cls = GroupedCommand
    command = get_command(app)
    command.name = name
    return command


class _LazyGroup(TyperGroup):
    """Lists commands from the table alone; imports the module of the one that is called."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, short_help=line) for name, line in COMMANDS.items()}

    def resolve_command(self, ctx, args):
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _load(name), rest


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mlxflow {__version__}")
        raise typer.Exit


# Plain help: rich's panels would more than double the time to show it.
app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                          help="Print the version and stop.")] = False,
) -> None:
    """Type a few words, get a new emoji: flow matching in MLX."""


def main() -> None:
    """Entry point of the console script and of `python -m mlxflow`."""
    try:
        try:
            get_command(app)(prog_name="mlxflow")
        finally:
            sys.stdout.flush()  # a closed pipe shows here, not when Python ends
    except MlxflowError as error:
        print(f"mlxflow: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) is gone; what is still to be written must not fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
