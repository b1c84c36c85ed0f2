"""What the reports of all applications need: training runs that go on where they were, and Markdown of the results.

A report calls `mlxflow train` itself, so a run folder of it is one like any other: `train` starts it, resumes it, or
finds that it is done. Killed at any time, a report that is started again goes on.
"""

import hashlib
import json
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlxflow import paths
from mlxflow.data.labelled import Labelled
from mlxflow.errors import MlxflowError
from mlxflow.evaluation.classifier import Judge, judge
from mlxflow.training.launch import run_ranks
from mlxflow.training.start import start
from mlxflow.training.state import checkpoints

LABEL = 16


def position(run: Path) -> dict:
    """{"step", "images", "seconds"} of the newest checkpoint; zeros before the first."""
    found = checkpoints(run)
    if not found:
        return {"step": 0, "images": 0, "seconds": 0.0}
    return json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))


def inline(value: object) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {inline(v)}" for name, v in value.items()) + "}"
    return json.dumps(value)


def train(run: Path, data: Path, recipe: Path, *, steps: int, ranks: int = 1, settings: dict | None = None) -> dict:
    """Train until `steps` steps in `run`; returns `position`. Nothing happens where that is reached. Ctrl-C saves and
    ends the report too."""
    at = position(run)
    if at["step"] < steps:
        flags = {"steps": steps} if at["step"] else (settings or {}) | {"steps": steps}
        begin(run, data, recipe, ranks, flags, resume=at["step"] > 0)
        at = position(run)
        if at["step"] < steps:
            raise KeyboardInterrupt  # a signal ended it: what was learnt is kept
    return at


def begin(run: Path, data: Path, recipe: Path, ranks: int, flags: dict, resume: bool) -> None:
    """One `mlxflow train`: in this process, or as several."""
    if ranks == 1:
        if resume:
            start(run, data=None, flags=flags, resume=True)
        else:
            start(run, data=data, recipe=recipe, flags=flags, force=True)
        return
    given = ["--resume"] if resume else ["--force", "--data", str(data), "--config", str(recipe)]
    given += [f"--set={name}={inline(value)}" for name, value in flags.items()]
    code = run_ranks(ranks, ["train", "-o", str(run), *given])
    if code:
        raise MlxflowError(f"Training in {run} ended with code {code}.")


def snapshot(run: Path, to: Path) -> Path:
    """A copy of the newest averaged weights, which loads as a lone file; one that is there is kept."""
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}")
        shutil.copyfile(checkpoints(run)[-1] / "ema.safetensors", partial)
        partial.rename(to)
    return to


def reader(parts: dict[str, Labelled], steps: int) -> Judge:
    """The classifier that reads what is generated: trained once for these pictures, then kept in the cache folder, so
    that all reports have the same."""
    digest = hashlib.sha256(f"{steps}".encode())
    for data in parts.values():
        digest.update(np.ascontiguousarray(data.images))
        digest.update(data.labels)
    file = paths.cache_dir() / "classifiers" / f"{digest.hexdigest()[:32]}.safetensors"
    return judge(file, parts, steps,
                 lambda step, loss: step % 100 or print(f"classifier, step {step}: loss {loss:.3f}", file=sys.stderr))


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def training_loss(run: Path, last: int = 500, until: int | None = None) -> float:
    """Mean training loss over the `last` steps up to `until` (the end)."""
    lines = [line for line in log(run) if "loss" in line and (until is None or line["step"] <= until)]
    return float(np.mean([line["loss"] for line in lines if line["step"] > lines[-1]["step"] - last]))


def speed(run: Path) -> float:
    """Median images a second of the log."""
    return float(np.median([line["images_per_second"] for line in log(run) if "loss" in line]))


def recipe_values(recipe: Path) -> dict:
    return tomllib.loads(recipe.read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers to three significant digits or as they are."""
    def text(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(text, line)) + " |" for line in lines)


def figure(rows: Sequence[tuple[str, np.ndarray]], scale: int = 1, gap: int = 2) -> Image.Image:
    """Rows of pictures (uint8 `[N, S, S, 4]`) on white, each with its name above it."""
    font = ImageFont.load_default(LABEL - 4)
    size = rows[0][1].shape[1] * scale
    width = max(len(pictures) for _, pictures in rows) * (size + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (LABEL + size + 2 * gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, pictures) in enumerate(rows):
        top = i * (LABEL + size + 2 * gap)
        draw.text((gap, top), name, font=font, fill="black")
        for j, picture in enumerate(pictures):
            image = Image.fromarray(picture).convert("RGBA").resize((size, size), Image.Resampling.NEAREST)
            sheet.paste(image, (gap + j * (size + gap), top + LABEL + gap), image)
    return sheet


def write_report(out: Path, text: str, figures: dict[str, Image.Image]) -> None:
    """OUT/report.md and its pictures."""
    out.mkdir(parents=True, exist_ok=True)
    for name, image in figures.items():
        image.save(out / name, optimize=True)
    (out / "report.md").write_text(text, encoding="utf-8")
    print(f"{out / 'report.md'}")
