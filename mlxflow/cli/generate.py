"""`mlxflow generate WORDS`: draw pictures of prompts and write them as PNG."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption

# One picture's products are too small to share between cores, and OpenBLAS's threads wait in a spin: beside any
# other load two of them draw 40 times slower than one. Set before the runtime loads it; a user's choice stands.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A list of prompts is a few kilobytes; an endless stream is a mistake.
MAX_INPUT = 1_000_000


def generate(
    prompts: Annotated[list[str], typer.Argument(help="What to draw, in quotes; several are drawn in turn; - reads "
                                                      "standard input, a prompt a line.", show_default=False)],
    n: Annotated[int, typer.Option("-n", help="Pictures of each prompt.")] = 1,
    out: Annotated[str | None, typer.Option("--out", "-o", show_default=False, help="File or folder to write. "
                                            "[default: the prompt, as in smiling-cat.png]")] = None,
    seed: Annotated[int | None, typer.Option(show_default=False, help="Picture i has the seed SEED + i - 1; the same "
                                             "seed draws the same picture. [default: random, and printed]")] = None,
    steps: Annotated[int, typer.Option(help="Steps from noise to picture: more are slower and finer.")] = 16,
    solver: Annotated[str, typer.Option(help="euler, midpoint, heun, rk4, dopri5 or sde.")] = "heun",
    guidance: Annotated[float, typer.Option(help="How closely to follow the words; 1 is the plain model.")] = 3.0,
    negative: Annotated[str, typer.Option(help="Words to keep away from.", show_default=False)] = "",
    background: Annotated[str | None, typer.Option(show_default=False, help="A colour behind the picture: white, or "
                                                   "#rrggbb. [default: transparent]")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="One picture of all of them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist, instead of numbering.")] = False,
    weights: Annotated[str, typer.Option(help="Weights: the name of shipped ones, a folder, a run, or a "
                                              ".safetensors file.")] = "emoji",
    device: DeviceOption = None,
) -> None:
    """Type a few words, get a picture. Prints the path of each file that it writes.

    Example: mlxflow generate "smiling cat" -n 4 --seed 7
    """
    import secrets

    from PIL import Image

    from mlxflow.sampling import output
    from mlxflow.sampling.formats import encode
    from mlxflow.sampling.pipeline import Pipeline, Settings, digest, requests_for

    settings = Settings(steps, solver, guidance, negative)
    texts = [line for prompt in prompts for line in (_standard_input() if prompt == "-" else [prompt])]
    chosen = secrets.randbelow(2**32) if seed is None else seed
    requests = requests_for(texts, n, chosen)
    if background is not None:
        output.colour(background)
    stems = [f"{output.slug(texts[0])}-grid"] if grid else [output.slug(request.prompt) for request in requests]
    names = output.names(out, stems)
    output.open_folder(names[0].folder)

    pipeline = Pipeline.load(weights)
    for text in dict.fromkeys([*texts, *([negative] if negative else [])]):
        pipeline.encode(text)
        if pipeline.words_beyond(text):
            _note(f"Only the first {pipeline.length} words of '{text[:40]}...' are read.")
    if seed is None:
        last = chosen + n - 1
        _note(f"seed {chosen}" + (f" to {last}" if n > 1 else ""))
    made_by = {"steps": steps, "solver": solver, "guidance": guidance,
               "weights": digest(pipeline.model.source)}
    if negative:
        made_by["negative"] = negative
    if background is not None:
        made_by["background"] = background

    pixels = []
    with _progress(len(requests)) as report:
        for frame in pipeline.stream(requests, settings):
            report(frame.index + frame.t)
            if frame.t < 1:
                continue
            pixels.append(frame.pixels)
            if not grid:
                prompt, own_seed = requests[frame.index]
                image = output.on_background(Image.fromarray(frame.pixels), background)
                content = encode(image, names[0].suffix, {"prompt": prompt, "seed": own_seed, **made_by}, prompt)
                _say(output.write(names[frame.index], content, force))
    if grid:
        image = _grid_of(pixels, texts, n, background)
        content = encode(image, names[0].suffix, {"prompts": texts, "n": n, "seed": chosen, **made_by}, ", ".join(texts))
        _say(output.write(names[0], content, force))


def _grid_of(pixels: list, texts: list[str], n: int, background: str | None):
    """A row for each prompt while that fits, with the prompt under its pictures; one prompt needs no caption."""
    import numpy as np

    from mlxflow.sampling import output
    from mlxflow.sampling.formats import encode

    rows = len(texts) > 1 and 1 < n <= 12
    captions = [text for text in texts for _ in range(n)] if len(texts) > 1 else None
    return output.grid(np.stack(pixels), n if rows else output.columns_for(len(pixels)), captions, background)


def _say(path: Path) -> None:
    print(path, flush=True)


def _note(text: str) -> None:
    print(f"mlxflow: {text}", file=sys.stderr)


def _standard_input() -> list[str]:
    """The prompts on standard input, one a line; raises MlxflowError when there is none, or no text."""
    from mlxflow.errors import MlxflowError

    content = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(content) > MAX_INPUT:
        raise MlxflowError("Standard input is longer than a million bytes: give a list of prompts, one a line.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise MlxflowError("Standard input is not UTF-8 text: give a list of prompts, one a line.") from None
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        raise MlxflowError("There is no prompt on standard input: give one a line.")
    return prompts


@contextmanager
def _progress(total: int):
    """A bar on standard error while pictures are drawn, if that is a terminal; it leaves nothing behind."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    # Paths printed on standard output during the work would otherwise be caught and redrawn above the bar.
    with Progress(TextColumn("Drawing"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn(),
                  console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
