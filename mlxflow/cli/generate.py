"""`mlxflow generate WORDS`: draw pictures of prompts and write them."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlxflow.cli.options import (CHOOSING, DRAWING, OUTPUT, WORDS, DeviceOption, ShowOption, WeightsOption)

# One picture's products are too small to share between cores, and OpenBLAS's threads wait in a spin: beside
# any
# other load two of them draw 40 times slower than one. Set before the runtime loads it; a user's choice
# stands.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A list of prompts is a few kilobytes; an endless stream is a mistake.
MAX_INPUT = 1_000_000
STDIN = "Standard input"


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(show_default=False,
                                                        help="What to draw, in quotes; several are drawn in turn; - "
                                                        "reads standard input, a prompt a line.")] = None,
    prompt_file: Annotated[Path | None, typer.Option("--prompts", help="A text file with a prompt a line.",
                                                     show_default=False, rich_help_panel=WORDS)] = None,
    negative: Annotated[str | None, typer.Option(help="Words to keep away from.", show_default=False,
                                                 rich_help_panel=WORDS)] = None,
    like: Annotated[Path | None, typer.Option(help="A picture that mlxflow made: repeat it; other options change a "
                                              "part.", show_default=False, rich_help_panel=WORDS)] = None,
    n: Annotated[int | None, typer.Option("-n", help="Pictures of each prompt. [default: 1]", show_default=False,
                                          rich_help_panel=CHOOSING)] = None,
    seed: Annotated[str | None, typer.Option(show_default=False, rich_help_panel=CHOOSING,
                                             help="Picture i has the seed SEED + i - 1, or the seeds of a list such "
                                             "as 1,2,5-9. [default: random, and printed]")] = None,
    best: Annotated[int | None, typer.Option(help="Keep only so many of each prompt's pictures: the best, by the "
                                             "model's own judgement. [default of -n: 4 x BEST]",
                                             show_default=False, rich_help_panel=CHOOSING)] = None,
    vary: Annotated[float | None, typer.Option(help="Draw -n variations of each picture instead: near 0 hardly "
                                               "different, 1 another picture.", show_default=False,
                                               rich_help_panel=CHOOSING)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps from noise to picture: more are slower and finer.",
                                              show_default=False, rich_help_panel=DRAWING)] = None,
    solver: Annotated[str | None, typer.Option(help="euler, midpoint, heun, rk4, dopri5 or sde; shortcut for "
                                               "few-step models.", show_default=False, rich_help_panel=DRAWING)] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the words; 1 is the plain model.",
                                                   show_default=False, rich_help_panel=DRAWING)] = None,
    guide_until: Annotated[float | None, typer.Option(show_default=False, rich_help_panel=DRAWING,
                                                      help="Where guidance ends, from 0, the noise, to 1, the picture. "
                                                      "[default: 0.3]")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: Annotated[str | None, typer.Option("--out", "-o", show_default=False, rich_help_panel=OUTPUT,
                                            help="File or folder to write; the ending says the format: .png, .webp, "
                                            ".gif, .apng or .svg. [default: the prompt, as in smiling-cat.png]")] = None,
    size: Annotated[int | None, typer.Option(help="Width and height in pixels: 64, 128, 256 or 512. [default: as "
                                             "drawn]", show_default=False, rich_help_panel=OUTPUT)] = None,
    for_: Annotated[Literal["slack", "discord", "sticker"] | None, typer.Option(
        "--for", help="Keep the size and weight that a chat's emoji or sticker may have.", show_default=False,
        rich_help_panel=OUTPUT)] = None,
    background: Annotated[str | None, typer.Option(show_default=False, rich_help_panel=OUTPUT,
                                                   help="A colour behind the picture: white, or #rrggbb. "
                                                   "[default: transparent]")] = None,
    grid: Annotated[bool | None, typer.Option("--grid", help="One picture of all of them.", show_default=False,
                                              rich_help_panel=OUTPUT)] = None,
    trajectory: Annotated[Path | None, typer.Option(help="Also write an animation of the noise becoming the picture: "
                                                    "a .gif, .webp or .apng.", show_default=False,
                                                    rich_help_panel=OUTPUT)] = None,
    metadata: Annotated[bool, typer.Option("--metadata/--no-metadata", help="Whether files say what made them.",
                                           rich_help_panel=OUTPUT)] = True,
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist, instead of numbering.",
                                        rich_help_panel=OUTPUT)] = False,
    show: ShowOption = None,
) -> None:
    """Type a few words, get a picture. Prints the path of each file that it writes.

    Examples:

      mlxflow generate "smiling cat" -n 16 --best 4 --grid

      mlxflow generate "red heart" --for slack -o heart.png --trajectory heart.gif

      mlxflow generate --like smiling-cat.png --vary 0.3 -n 8
    """
    from mlxflow.errors import MlxflowError
    from mlxflow.sampling.work import Wishes, work_for

    texts = [line for prompt in prompts or () for line in (_standard_input() if prompt == "-" else [prompt])]
    if prompt_file is not None:
        texts += _prompts_of(prompt_file)
    if not texts and like is None:
        raise MlxflowError("Say what to draw, as in: mlxflow generate \"smiling cat\".")
    work = work_for(Wishes(texts, like, n, seed, best, vary, steps, solver, guidance, guide_until, negative, weights,
                           out, size, for_, background, grid, trajectory, metadata, force))
    work.load(_note)

    from mlxflow.cli.live import Live

    with Live(len(work.requests), work.settings.steps, show) as live:
        work.run(live.step, lambda path: live.say(str(path)))


def _note(text: str) -> None:
    print(f"mlxflow: {text}", file=sys.stderr)


def _prompts_of(file: Path) -> list[str]:
    """The prompts of a text file, one a line."""
    from mlxflow.errors import MlxflowError

    try:
        with open(file, "rb") as f:
            return _lines(f.read(MAX_INPUT + 1), str(file))
    except OSError as error:
        raise MlxflowError(f"{file} cannot be read: {error.strerror}.") from None


def _standard_input() -> list[str]:
    """The prompts on standard input, one a line."""
    return _lines(sys.stdin.buffer.read(MAX_INPUT + 1), STDIN)


def _lines(content: bytes, source: str) -> list[str]:
    """Prompts, one a line; raises MlxflowError when there is none, or no text."""
    from mlxflow.errors import MlxflowError

    if len(content) > MAX_INPUT:
        raise MlxflowError(f"{source} is longer than a million bytes: give a list of prompts, one a line.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise MlxflowError(f"{source} is not UTF-8 text: give a list of prompts, one a line.") from None
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        where = "on standard input" if source == STDIN else f"in {source}"
        raise MlxflowError(f"There is no prompt {where}: give one a line.")
    return prompts
