"""`mlxflow eval WEIGHTS --data emoji/`: how well a model draws what it is asked for, in numbers and pictures."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption

# As in generate: the products are small, and OpenBLAS's threads wait in a spin. Set before the runtime loads it.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def eval(
    weights: Annotated[str, typer.Argument(help="The name of shipped weights, a folder, a run, or a .safetensors "
                                                "file.")] = "emoji",
    data: Annotated[Path, typer.Option(help="The data folder, such as `mlxflow data emoji` makes.")] = Path("emoji"),
    limit: Annotated[int | None, typer.Option(help="Ask at most this many of each part: a quick look.",
                                              show_default=False)] = None,
    parts: Annotated[str, typer.Option(help="Which parts, with commas between.")]
        = "names,prompts,combinations,compositions,novel,validation",
    sweep: Annotated[bool, typer.Option("--sweep", help="Also with 4, 8, 16 and 32 steps, and guidance 1 to 6.")] = False,
    check_measure: Annotated[bool, typer.Option("--check-measure", help="Draw nothing: are the folder's own pictures "
                                                "found when they are shifted, scaled, blurred?")] = False,
    steps: Annotated[int | None, typer.Option(show_default=False, help="Steps from noise to picture. [default: as "
                                              "generate]")] = None,
    solver: Annotated[str | None, typer.Option(show_default=False, help="euler, midpoint, heun, rk4, dopri5 or sde. "
                                               "[default: as generate]")] = None,
    guidance: Annotated[float | None, typer.Option(show_default=False, help="How closely to follow the words; 1 is the "
                                                   "plain model. [default: as generate]")] = None,
    guide_until: Annotated[float | None, typer.Option(show_default=False, help="Where guidance ends, from 0, the noise, "
                                                      "to 1, the picture. [default: as generate]")] = None,
    seed: Annotated[int, typer.Option(help="All pictures are drawn with this seed.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", show_default=False, help="Folder of the result. "
                                             "[default: eval-WEIGHTS]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the result of other weights or settings there.")]
        = False,
    device: DeviceOption = None,
) -> None:
    """Measure how often a drawn picture is nearest to the real one that was asked for.

    Writes eval.json, index.html with all pictures, and a PNG sheet of each part. Pictures that were drawn stay in
    the folder: a run that was stopped goes on where it was.

    Example: mlxflow eval emoji --data emoji/ --limit 100
    """
    from mlxflow.errors import MlxflowError

    if check_measure:
        _check_measure(data, limit)
        return
    from mlxflow.evaluation import results
    from mlxflow.evaluation.evaluate import PARTS, Evaluation
    from mlxflow.sampling.pipeline import Pipeline, requests_for, settings_for

    wanted = [part.strip() for part in parts.split(",") if part.strip()]
    for part in wanted:
        if part not in PARTS:
            raise MlxflowError(f"There is no part '{part}': choose from {', '.join(PARTS)}.")
    requests_for([], 1, seed)
    name = _name(weights)
    out = out or Path(f"eval-{name}")
    try:
        with progress() as (report, say):
            pipeline = Pipeline.load(weights)
            settings = settings_for(pipeline.model.config, steps, solver, guidance, guide_until=guide_until)
            evaluation = Evaluation(pipeline, data, out / "pictures", settings, seed=seed, limit=limit,
                                    progress=report)
            result = results.start(out, evaluation.identity(), force)
            # Parts of before are drawn already, and belong on the page as well.
            for part in (part for part in PARTS if part in wanted or part in result):
                if part != "validation" or part not in result:
                    result[part] = evaluation.part(part)
                say(part, result[part])
                results.write_numbers(out, result)
            if sweep and "sweep" not in result:
                result["sweep"] = evaluation.sweep()
                results.write_numbers(out, result)
            if "sweep" in result:
                say("sweep", result["sweep"])
            results.write_pages(out, name, result, evaluation)
    except KeyboardInterrupt:
        print(f"mlxflow: stopped; what was drawn is in {out}, and the same command goes on from there.",
              file=sys.stderr)
        raise
    for path in (out / results.NUMBERS, out / results.PAGE):
        print(path)


def _name(weights: str) -> str:
    path = Path(weights)
    return path.stem if path.suffix == ".safetensors" else path.resolve().name


def _check_measure(data: Path, limit: int | None) -> None:
    from mlxflow.data.folder import read_folder
    from mlxflow.data.images import load_all
    from mlxflow.errors import MlxflowError
    from mlxflow.evaluation.check import check_measure
    from mlxflow.evaluation.questions import questions

    if limit is not None and limit < 1:
        raise MlxflowError(f"--limit must be 1 or more, not {limit}.")
    pictures = load_all(questions(read_folder(data)).gallery)
    asked = min(limit or len(pictures), len(pictures))
    print(f"{f'{asked:,} real pictures, found among {len(pictures):,}':54} {'R@1':>6} {'R@5':>6}", flush=True)
    with progress() as (report, _):
        for change, found in check_measure(pictures, limit, lambda done: report("check", done)):
            print(f"{change:54} {found['R@1']['value']:6.1f} {found['R@5']['value']:6.1f}", flush=True)


def lines_of(part: str, numbers) -> list[str]:
    """What the terminal shows of a part's numbers."""
    if numbers is None:
        return [f"{part:13} the folder asks for none"]
    if part == "sweep":
        rows = []
        for row in numbers:
            cells = [f"{p} {row[p]['R@1']['value']:.1f}" + (f" / {row[p]['R@5']['value']:.1f}" if "R@5" in row[p] else "")
                     for p in ("names", "prompts", "combinations") if p in row]
            rows.append(f"{row['steps']:2} steps, guidance {row['guidance']:g}: {', '.join(cells)}")
        return rows
    if part == "novel":
        return [f"{part:13} {numbers['copies']} of {numbers['n']} are nearer than {numbers['copy_below']:g} to a training "
                f"picture, median {numbers['median_distance']:.2f}"]
    if part == "validation":
        return [f"{part:13} {split}: loss {of['prompt']['loss']:.4f}"
                + (f" ({of['prompt']['excess']:.4f} above the floor)" if "excess" in of["prompt"] else "")
                + f", without prompt {of['no_prompt']['loss']:.4f}"
                + (f" ({of['no_prompt']['excess']:.4f} above the floor)" if "excess" in of["no_prompt"] else "")
                for split, of in numbers.items()]
    shares = [f"{key} {v['value']:.1f} % ({v['low']:.1f} to {v['high']:.1f})"
              for key, v in numbers.items() if key.startswith("R@")]
    line = f"{part:13} {'  '.join(shares)}  of {numbers['n']:,}"
    if part == "compositions":
        line += "; R@1 " + ", ".join(f"{kind} {found['R@1']['value']:.0f}" for kind, found in numbers["groups"].items())
    if part == "combinations":
        line += (f", chance {numbers['chance']:.1f} %; squared error {numbers['mse']:.4f}, nearest training variant "
                 f"{numbers['mse_of_nearest_training_variant']:.4f}")
    return [line]


@contextmanager
def progress():
    """report(what, share done) draws a bar on standard error if that is a terminal; say(part, numbers) prints."""
    def say(part: str, numbers) -> None:
        for line in lines_of(part, numbers):
            print(line, flush=True)

    if not sys.stderr.isatty():
        yield lambda what, done: None, say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
                  TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
                  transient=True, redirect_stdout=False) as bar:
        task, now = bar.add_task("", total=1.0), ""

        def report(what: str, done: float) -> None:
            nonlocal now
            if what != now:
                now = what
                bar.reset(task, description=what, total=1.0)
            bar.update(task, completed=done)

        def said(part: str, numbers) -> None:
            if sys.stdout.isatty():
                for line in lines_of(part, numbers):
                    bar.console.print(line, highlight=False, soft_wrap=True)
            else:
                say(part, numbers)

        yield report, said
