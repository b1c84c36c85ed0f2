"""`mlxflow data`: make a folder of pictures to train on, or look at one."""

from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make the folder of emoji, or look at a folder.",
)


@app.command()
def emoji(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    font: Annotated[
        Path | None, typer.Option(help="Colour emoji font to take pictures from.", show_default=False)
    ] = None,
    source: Annotated[
        Literal["embedded", "noto", "apple"] | None,
        typer.Option(
            help="Where the pictures come from: the package, an installed Noto font, this Mac's Apple font. "
            "[default: Apple's on a Mac, else an installed Noto font, else embedded]",
            show_default=False,
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 64,
    force: Annotated[bool, typer.Option("--force", help="Replace an emoji folder that is there.")] = False,
) -> None:
    """Make a folder of emoji: a picture of each, and metadata.jsonl with names, captions and splits.

    Example: mlxflow data emoji emoji/ --source embedded
    """
    from mlxflow.data.emoji import build_emoji

    with _bar("Pictures") as progress:
        built = build_emoji(out, font=font, source=source, size=size, force=force, progress=progress)
    if built.source.note:
        typer.echo(f"Note: {built.source.note}")
    splits = ", ".join(
        f"{name} {built.splits[name]:,}" for name in ("train", "val", "holdout") if name in built.splits
    )
    typer.echo(f"{built.count:,} pictures ({splits}) from {built.source}")
    typer.echo(f"Licence: {built.source.licence}")
    typer.echo(f"{built.out}\nLook at it: mlxflow data show {built.out}")


OutFolder = Annotated[Path, typer.Argument(help="The folder to put the files in.")]
FromFolder = Annotated[
    Path | None, typer.Option("--from", help="A folder with local copies, instead of the internet.", show_default=False)
]


@app.command()
def mnist(out: OutFolder, source: FromFolder = None) -> None:
    """Get MNIST: 60,000 + 10,000 handwritten digits, checked.

    Example: mlxflow data mnist mnist/
    """
    _fetch("MNIST", out, source)


@app.command()
def fashion(out: OutFolder, source: FromFolder = None) -> None:
    """Get Fashion-MNIST: 60,000 + 10,000 pieces of clothing, checked.

    Debian has it too: apt install dataset-fashion-mnist, then --from /usr/share/datasets/fashion-mnist

    Example: mlxflow data fashion fashion/
    """
    _fetch("FASHION", out, source)


@app.command()
def cifar10(out: OutFolder, source: FromFolder = None) -> None:
    """Get CIFAR-10: 50,000 + 10,000 small photographs, checked.

    Example: mlxflow data cifar10 cifar10/
    """
    _fetch("CIFAR10", out, source)


def _fetch(name: str, out: Path, source: Path | None) -> None:
    from mlxflow.data import fetch
    from mlxflow.data.labelled import open_labelled

    dataset = getattr(fetch, name)
    with _bar(dataset.title) as progress:
        fetch.fetch(dataset, out, source, progress)
    parts = open_labelled(out, 32, 3)
    names = parts["train"].names
    typer.echo(f"{len(parts['train']):,} + {len(parts['val']):,} pictures in {len(names)} classes: {', '.join(names)}\n"
               f"{out}\nTrain on it: mlxflow train --data {out} --config RECIPE")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("sheet.png"),
    limit: Annotated[int, typer.Option(help="At most so many pictures, spread over the folder.")] = 100,
    split: Annotated[
        Literal["train", "val", "holdout"] | None, typer.Option(help="Only this split.", show_default=False)
    ] = None,
    columns: Annotated[int, typer.Option(help="Pictures a row.")] = 10,
    force: Annotated[bool, typer.Option("--force", help="Replace the PNG if it is there.")] = False,
) -> None:
    """Write a contact sheet of a folder: its pictures with their captions.

    Example: mlxflow data show emoji/ --split val -o val.png
    """
    from mlxflow.data.folder import read_folder
    from mlxflow.data.sheet import contact_sheet, spread
    from mlxflow.errors import MlxflowError

    if out.suffix.lower() != ".png":
        raise MlxflowError(f"{out} must end in .png.")
    if out.exists() and not force:
        raise MlxflowError(f"{out} exists; choose another name with -o, or replace it with --force.")
    found = read_folder(folder)
    records = found.split(split) if split else found.records
    if not records:
        raise MlxflowError(f"{folder} has no pictures in the split {split}.")
    with _bar("Pictures") as progress:
        sheet = contact_sheet(spread(records, limit), columns, progress)
    try:
        sheet.save(out)
    except OSError as error:
        raise MlxflowError(f"{out} cannot be written: {error.strerror or error}.") from None
    shown = min(limit, len(records))
    typer.echo(f"{shown:,} of {len(records):,} pictures{f' of {split}' if split else ''}\n{out}")


@contextmanager
def _bar(name: str):
    """Gives `progress(done, total)`: a bar on a terminal, silent elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as panel:
        task = panel.add_task(name, total=None)
        yield lambda done, total: panel.update(task, completed=done, total=total)
