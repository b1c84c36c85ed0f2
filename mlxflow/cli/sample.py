"""`mlxflow sample RUN`: draw from a model of classes, or of pictures without any, into one PNG."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption


def sample(
    weights: Annotated[str, typer.Argument(help="A run folder, a weights folder, or a .safetensors file.",
                                           show_default=False)],
    n: Annotated[int | None, typer.Option("-n", help="Pictures. [default: 16]", show_default=False)] = None,
    label: Annotated[list[str] | None, typer.Option(show_default=False, help="A class by name or number; several are "
                                                    "taken in turn. [default: all in turn]")] = None,
    class_grid: Annotated[bool, typer.Option("--class-grid", help="A row for each class.")] = False,
    per_class: Annotated[int | None, typer.Option(help="Pictures a row of the class grid. [default: 8]",
                                                  show_default=False)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("sample.png"),
    seed: Annotated[int | None, typer.Option(show_default=False, help="Picture i has the noise of SEED + i. "
                                             "[default: random, and printed]")] = None,
    steps: Annotated[int | None, typer.Option(show_default=False, help="Steps from noise to picture. [default: 16, and 4 "
                                              "of a few-step model]")] = None,
    solver: Annotated[str | None, typer.Option(show_default=False, help="euler, midpoint, heun, rk4, dopri5 or sde; "
                                               "shortcut for few-step models. [default: heun or shortcut]")] = None,
    guidance: Annotated[float | None, typer.Option(show_default=False, help="How closely to follow the class; 1 is the "
                                                   "plain model. [default: 3, and 1 without classes]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists, instead of numbering.")] = False,
    device: DeviceOption = None,
) -> None:
    """Draw from a model that was trained on classes, or on pictures without any.

    Example: mlxflow sample runs/cifar10 --class-grid --per-class 8 -o grid.png
    """
    import secrets

    import numpy as np
    from PIL import Image

    from mlxflow.data.labelled import to_rgba
    from mlxflow.errors import MlxflowError
    from mlxflow.sampling import output
    from mlxflow.sampling.classes import ClassSampler
    from mlxflow.sampling.pipeline import MAX_SEED, digest, settings_for

    if class_grid and (n is not None or label):
        raise MlxflowError("--class-grid draws every class: use --per-class instead of -n and --label.")
    if per_class is not None and not class_grid:
        raise MlxflowError("--per-class belongs to --class-grid.")
    if out.suffix.lower() != ".png":
        raise MlxflowError(f"{out} must end in .png.")
    if seed is not None and not 0 <= seed <= MAX_SEED - 1_000_000:
        raise MlxflowError(f"The seed must be between 0 and {MAX_SEED - 1_000_000}, not {seed}.")

    sampler = ClassSampler.load(weights)
    settings = settings_for(sampler.model.config, steps, solver, guidance)
    if class_grid:
        if not sampler.names:
            raise MlxflowError(f"{weights} was trained without classes: use -n instead of --class-grid.")
        columns = 8 if per_class is None else per_class
        if columns < 1:
            raise MlxflowError(f"--per-class must be 1 or more, not {columns}.")
        labels = np.repeat(np.arange(len(sampler.names)), columns).tolist()
        count = len(labels)
    else:
        count = 16 if n is None else n
        chosen = [sampler.label(text) for text in label or ()] or list(range(len(sampler.names)))
        labels = [chosen[i % len(chosen)] for i in range(max(0, count))] if chosen else None
        columns = output.columns_for(count) if count > 0 else 1
    first = secrets.randbelow(2**32) if seed is None else seed
    if seed is None:
        print(f"mlxflow: seed {first}", file=sys.stderr)
    output.open_folder(out.parent)

    pictures, nfe = [], 0
    for drawn in sampler.draw(labels, count, first, settings):
        pictures.append(to_rgba(drawn.values))
        nfe = drawn.nfe
        _progress(sum(map(len, pictures)), count)
    images = np.concatenate(pictures)
    captions = [sampler.names[i] for i in labels] if labels is not None else None
    image = Image.fromarray(images[0]) if count == 1 else output.grid(images, columns, captions, "white")
    made_by = {"labels": captions, "seed": first, **settings.described(),
               "weights": digest(sampler.model.source)}
    content = output.png_bytes(image, made_by, ", ".join(dict.fromkeys(captions or ["samples"])))
    path = output.write(output.Name(out.parent, out.stem), content, force)
    print(f"{path}\n{count} picture{'s' if count > 1 else ''}, {nfe} evaluation{'s' if nfe > 1 else ''} each")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total}" + ("\n" if done == total else ""), end="", file=sys.stderr, flush=True)
