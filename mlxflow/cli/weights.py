"""`mlxflow weights`: what `--weights NAME` can name; add a run or a file under a name, and remove it
again.
"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False,
                  help="Weights by name: the shipped ones, and those that you add.\n\n"
                       "Example: mlxflow weights add runs/mine cats && mlxflow generate \"happy hexagon\" --weights cats")


@app.command("list")
def list_() -> None:
    """The names, with the number of parameters, the size, and how much each was trained.

    Example: mlxflow weights list
    """
    from mlxflow import paths
    from mlxflow.cli.info import parameter_counts, read_header
    from mlxflow.errors import MlxflowError
    from mlxflow.weights import names, read_config, resolve

    for name in names():
        file = resolve(name)
        try:
            count = sum(parameter_counts(read_header(file)).values())
            images = read_config(file).get("trained", {}).get("images")
            known = f"{count / 1e6:7.1f} M parameters  {file.stat().st_size / 1e6:6.1f} MB" + (
                f"  {images:,} pictures seen" if isinstance(images, int) else "")
        except MlxflowError as error:
            known = f"damaged: {error}"
        where = "shipped" if file.is_relative_to(paths.weights_dir()) else "added"
        print(f"{name:20} {where:8} {known}")


@app.command()
def add(
    source: Annotated[Path, typer.Argument(help="A run folder, a weights folder or a .safetensors file.",
                                           show_default=False)],
    name: Annotated[str | None, typer.Argument(help="What to call it. [default: the folder's name]",
                                               show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace weights that were added under the name.")] = False,
) -> None:
    """Copy weights to where `--weights NAME` finds them: in float16, with all that they need.

    Example: mlxflow weights add runs/mine cats
    """
    from mlxflow.shelf import add as put

    folder = put(source, name, force)
    print(f"{folder}\nTry it: mlxflow generate \"smiling cat\" --weights {folder.name}")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A name that was added.", show_default=False)],
) -> None:
    """Remove weights that were added. Shipped ones stay.

    Example: mlxflow weights remove cats
    """
    from mlxflow.shelf import remove as take_away

    print(f"removed {take_away(name)}")
