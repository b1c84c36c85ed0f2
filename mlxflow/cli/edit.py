"""`mlxflow edit ...`: change a picture by words. Any picture goes in, whoever made it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlxflow.cli.options import CHOOSING, DRAWING, OUTPUT, WORDS, DeviceOption, ShowOption, WeightsOption

# As in generate: the products are small, and OpenBLAS's threads wait in a spin. Set before the runtime loads
# it.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(no_args_is_help=True, add_completion=False,
                  help="Change a picture: redraw it, a part of it, morph it, or draw its noise by other words.\n\n"
                       "Example: mlxflow edit redraw photo.png \"smiling cat\" --strength 0.7")

PictureArgument = Annotated[Path, typer.Argument(help="The picture: any size, with or without transparency.",
                                                 show_default=False)]
WordsArgument = Annotated[str, typer.Argument(help="What it should become, in quotes.", show_default=False)]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same result. [default: random, "
                                                "and printed]", show_default=False, rich_help_panel=CHOOSING)]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Steps from noise to picture.", show_default=False,
                                                 rich_help_panel=DRAWING)]
SolverOption = Annotated[str | None, typer.Option("--solver", help="euler, midpoint, heun, rk4, dopri5 or sde.",
                                                  show_default=False, rich_help_panel=DRAWING)]
GuidanceOption = Annotated[float | None, typer.Option("--guidance", help="How closely to follow the words; 1 is the "
                                                      "plain model.", show_default=False, rich_help_panel=DRAWING)]
NegativeOption = Annotated[str, typer.Option("--negative", help="Words to keep away from.", show_default=False,
                                             rich_help_panel=WORDS)]
OutOption = Annotated[str | None, typer.Option("--out", "-o", show_default=False, rich_help_panel=OUTPUT,
                                               help="File or folder to write: .png, .webp, .gif, .apng or .svg. "
                                               "[default: the words, as in smiling-cat.png]")]
MovieOption = Annotated[str, typer.Option("--out", "-o", rich_help_panel=OUTPUT,
                                          help="The animation to write: .gif, .webp or .apng.")]
SizeOption = Annotated[int | None, typer.Option("--size", help="Width and height in pixels: 64, 128, 256 or 512.",
                                                show_default=False, rich_help_panel=OUTPUT)]
MetadataOption = Annotated[bool, typer.Option("--metadata/--no-metadata", rich_help_panel=OUTPUT,
                                              help="Whether files say what made them.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Write over files that exist, instead of numbering.",
                                           rich_help_panel=OUTPUT)]


@app.command()
def redraw(
    picture: PictureArgument,
    words: WordsArgument,
    strength: Annotated[float, typer.Option(help="How much may change: near 0 little, 1 everything.",
                                            rich_help_panel=DRAWING)] = 0.6,
    negative: NegativeOption = "",
    seed: SeedOption = None,
    steps: StepsOption = None,
    solver: SolverOption = None,
    guidance: GuidanceOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    size: SizeOption = None,
    metadata: MetadataOption = True,
    force: ForceOption = False,
    show: ShowOption = None,
) -> None:
    """Draw a picture again by words, keeping its layout and colours (image to image).

    Example: mlxflow edit redraw sketch.png "red heart" --strength 0.7 -o heart.png
    """
    from mlxflow.sampling.desk import Desk

    desk = Desk(weights, steps, solver, guidance, negative, note=_note)
    seed = _seed(seed)
    with _live(desk, show) as report:
        made = desk.redraw(picture, words, strength=strength, seed=seed, report=report)
    print(desk.write(made, words, out, size, metadata, force))


@app.command()
def inpaint(
    picture: PictureArgument,
    words: WordsArgument,
    mask: Annotated[Path | None, typer.Option(help="A picture of the same size: what is white in it is drawn anew.",
                                              show_default=False, rich_help_panel=CHOOSING)] = None,
    box: Annotated[str | None, typer.Option(help="Instead of a mask: left,top,right,bottom in pixels.",
                                            show_default=False, rich_help_panel=CHOOSING)] = None,
    strength: Annotated[float, typer.Option(help="How much may change inside: near 0 little, 1 everything.",
                                            rich_help_panel=DRAWING)] = 1.0,
    rounds: Annotated[int, typer.Option(help="How often each step is taken: more let both parts agree better.",
                                        rich_help_panel=DRAWING)] = 1,
    negative: NegativeOption = "",
    seed: SeedOption = None,
    steps: StepsOption = None,
    solver: SolverOption = None,
    guidance: GuidanceOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    metadata: MetadataOption = True,
    force: ForceOption = False,
    show: ShowOption = None,
) -> None:
    """Draw a part of a picture anew by words. The rest keeps its pixels exactly, at the picture's own size.

    Example: mlxflow edit inpaint cat.png "cat with heart eyes" --box 10,18,54,34
    """
    from mlxflow.errors import MlxflowError
    from mlxflow.sampling.desk import Desk

    if (mask is None) == (box is None):
        raise MlxflowError("Say which part to draw anew: either --mask PICTURE or --box LEFT,TOP,RIGHT,BOTTOM.")
    desk = Desk(weights, steps, solver, guidance, negative, note=_note)
    seed = _seed(seed)
    with _live(desk, show) as report:
        made = desk.inpaint(picture, words, mask=mask, box=box, strength=strength, rounds=rounds, seed=seed,
                            report=report)
    print(desk.write(made, words, out, None, metadata, force))


@app.command()
def reword(
    picture: PictureArgument,
    words: WordsArgument,
    was: Annotated[str | None, typer.Option("--from", help="What the picture shows now. [default: what its metadata "
                                            "say, else nothing]", show_default=False, rich_help_panel=WORDS)] = None,
    keep: Annotated[float | None, typer.Option(help="How much to keep of the detail that the model cannot draw, 0 to 1. "
                                               "[default: 0; 1 for the same words]", show_default=False,
                                               rich_help_panel=DRAWING)] = None,
    steps: StepsOption = None,
    solver: SolverOption = None,
    guidance: Annotated[float, typer.Option("--guidance", help="How closely to follow the new words; finding the noise "
                                            "is always done with 1.", rich_help_panel=DRAWING)] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise in the last step.", rich_help_panel=DRAWING)] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    size: SizeOption = None,
    metadata: MetadataOption = True,
    force: ForceOption = False,
    show: ShowOption = None,
) -> None:
    """Run the flow backwards to the noise of a picture, and draw that noise by other words (inversion).

    Example: mlxflow edit reword cat.png panda --from "smiling cat"
    """
    from mlxflow.sampling.desk import Desk

    desk = Desk(weights, steps, solver, guidance, "", note=_note)
    with _live(desk, show) as report:
        made = desk.reword(picture, words, was=was, keep=keep, seed=seed, report=report)
    print(desk.write(made, words, out, size, metadata, force))


@app.command()
def restyle(
    picture: PictureArgument,
    style: Annotated[str, typer.Argument(help="One of the styles that the weights know.", show_default=False)],
    was: Annotated[str | None, typer.Option("--from", help="What the picture shows. [default: what its metadata say, "
                                            "else nothing]", show_default=False, rich_help_panel=WORDS)] = None,
    steps: StepsOption = None,
    solver: SolverOption = None,
    guidance: Annotated[float, typer.Option("--guidance", help="How closely to follow the style.",
                                            rich_help_panel=DRAWING)] = 1.0,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    size: SizeOption = None,
    metadata: MetadataOption = True,
    force: ForceOption = False,
    show: ShowOption = None,
) -> None:
    """Draw a picture in another style, if the weights were trained on several.

    Example: mlxflow edit restyle cat.png openmoji --from "smiling cat" --weights runs/two-styles
    """
    from mlxflow.sampling.desk import Desk

    desk = Desk(weights, steps, solver, guidance, "", note=_note)
    with _live(desk, show) as report:
        made = desk.restyle(picture, style, was=was, report=report)
    print(desk.write(made, style, out, size, metadata, force))


@app.command()
def morph(
    first: Annotated[str, typer.Argument(help="Words in quotes, or a picture.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Words in quotes, or a picture.", show_default=False)],
    frames: Annotated[int, typer.Option(help="Pictures from one to the other; the way back repeats them.",
                                        rich_help_panel=DRAWING)] = 12,
    seed: SeedOption = None,
    steps: StepsOption = None,
    solver: SolverOption = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="How closely to follow the words. [default: that "
                                                   "of generate; 1 with a picture]", show_default=False,
                                                   rich_help_panel=DRAWING)] = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: MovieOption = "morph.gif",
    size: SizeOption = None,
    background: Annotated[str | None, typer.Option(help="A colour behind the pictures: white, or #rrggbb. "
                                                   "[default: transparent]", show_default=False,
                                                   rich_help_panel=OUTPUT)] = None,
    metadata: MetadataOption = True,
    force: ForceOption = False,
    show: ShowOption = None,
) -> None:
    """One picture becoming another, and back, as an animation: from words to words, or from picture to
    picture.

    Example: mlxflow edit morph "full moon" "sun with face" --seed 7 -o moon.gif
    """
    from mlxflow.cli.live import Live
    from mlxflow.sampling.desk import Desk

    desk = Desk(weights, steps, solver, guidance, "", note=_note)
    seed = _seed(seed)
    with Live(frames, desk.settings.steps, show) as live:
        made = desk.morph(first, second, frames=frames, seed=seed,
                          report=lambda i, pixels: live.step(i, desk.settings.steps, pixels, 1.0))
    print(desk.write_movie(made, out, size, background, metadata, force))


def _note(text: str) -> None:
    print(f"mlxflow: {text}", file=sys.stderr)


def _seed(seed: int | None) -> int:
    import secrets

    from mlxflow.errors import MlxflowError
    from mlxflow.sampling.pipeline import MAX_SEED

    if seed is None:
        seed = secrets.randbelow(2**32)
        _note(f"seed {seed}")
    if not 0 <= seed <= MAX_SEED:
        raise MlxflowError(f"The seed must be between 0 and {MAX_SEED}, not {seed}.")
    return seed


class _live:
    """The live view of one picture: `with _live(desk, show) as report`, a `Report` of edit.py."""

    def __init__(self, desk, show: bool | None):
        from mlxflow.cli.live import Live

        self.live = Live(1, desk.settings.steps, show)

    def __enter__(self):
        import numpy as np

        from mlxflow.data.images import unpremultiply

        live = self.live.__enter__()
        return lambda done, values, t: live.step(0, done, unpremultiply(np.clip(values, -1, 1)), t)

    def __exit__(self, *error):
        self.live.__exit__(*error)
