"""`mlxflow floor FOLDER`: the floor of the loss by time bin."""

from pathlib import Path
from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption


def floor(
    folder: Annotated[Path, typer.Argument(help="A data folder, such as `mlxflow data emoji` makes.")],
    split: Annotated[str, typer.Option(help="Which pictures: train, val or holdout.")] = "train",
    size: Annotated[int, typer.Option(min=4, max=512, help="Side of the pictures, in pixels.")] = 64,
    path: Annotated[str, typer.Option(help="Probability path: condot, vp, cosine or ve.")] = "condot",
    prediction: Annotated[
        str, typer.Option(help="What the network predicts: data, velocity or noise.")
    ] = "data",
    weight_cap: Annotated[float, typer.Option(help="Cap of the loss weight, as in training.")] = 5.0,
    bins: Annotated[int, typer.Option(min=1, max=100, help="Bins of the time t.")] = 10,
    count: Annotated[int, typer.Option(min=2, help="Noisy pictures for each bin.")] = 64,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    device: DeviceOption = None,
) -> None:
    """The least loss that any network can reach on these pictures, by time: what a perfect memory would
    score.

    A run's loss minus this floor is what a better network could still gain. "Pictures left" says among how
    many pictures of the folder a noisy one could still end.

    Example: mlxflow floor emoji/
    """
    from rich.console import Console
    from rich.table import Table

    from mlxflow.evaluation.floor import folder_floor

    found = folder_floor(
        folder,
        split=split,
        size=size,
        path=path,
        prediction=prediction,
        cap=weight_cap,
        bins=bins,
        count=count,
        seed=seed,
    )
    table = Table(
        title=f"Floor of the loss: {found.images} pictures of {folder} ({split}), {path}, {prediction}"
    )
    for name in ("t", "no prompt", "+-", "pictures left", "with the caption"):
        table.add_column(name, justify="right")
    rows = zip(*found.without_prompt, found.with_prompt.loss)
    for b, (loss, error, images, prompted) in enumerate(rows):
        table.add_row(
            f"{b / bins:.2f}-{(b + 1) / bins:.2f}",
            f"{loss:.5f}",
            f"{error:.5f}",
            f"{images:.1f}",
            f"{prompted:.5f}",
        )
    means = (sum(f.loss) / bins for f in (found.without_prompt, found.with_prompt))
    table.add_section()
    table.add_row("mean", f"{next(means):.5f}", "", "", f"{next(means):.5f}")
    Console().print(table)
