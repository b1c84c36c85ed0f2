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
    parts: Annotated[str, typer.Option(help="Which parts, with commas between.")] = "names,prompts",
    steps: Annotated[int, typer.Option(help="Steps from noise to picture.")] = 16,
    solver: Annotated[str, typer.Option(help="euler, midpoint, heun, rk4, dopri5 or sde.")] = "heun",
    guidance: Annotated[float, typer.Option(help="How closely to follow the words.")] = 3.0,
    seed: Annotated[int, typer.Option(help="All pictures are drawn with this seed.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", show_default=False,
                                             help="Folder of the result. [default: eval-WEIGHTS]")] = None,
    device: DeviceOption = None,
) -> None:
    """Measure how often a drawn picture is nearest to the real one that was asked for.

    Pictures that were drawn stay in the folder: a run that was stopped goes on where it was.
    """
    import json

    from mlxflow.evaluation.evaluate import Evaluation
    from mlxflow.sampling.pipeline import Pipeline, Settings

    out = out or Path(f"eval-{Path(weights).stem if weights.endswith('.safetensors') else Path(weights).name}")
    with _progress() as report:
        evaluation = Evaluation(Pipeline.load(weights), data, out, Settings(steps, solver, guidance), seed=seed,
                                limit=limit, progress=report)
        result = {"format": 1, **evaluation.identity()}
        for name in parts.split(","):
            result[name] = evaluation.part(name)
            values = [f"{k} {v['value']} % ({v['low']}-{v['high']})" for k, v in result[name].items() if k[:2] == "R@"]
            print(f"{name}: n {result[name]['n']}, {', '.join(values)}", flush=True)
    (out / "eval.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(out / "eval.json")


@contextmanager
def _progress():
    """A bar for each part on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda part, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
                  TimeRemainingColumn(), console=Console(stderr=True), redirect_stdout=False) as bar:
        tasks = {}

        def report(part: str, done: float) -> None:
            if part not in tasks:
                tasks[part] = bar.add_task(part, total=1.0)
            bar.update(tasks[part], completed=done)

        yield report
