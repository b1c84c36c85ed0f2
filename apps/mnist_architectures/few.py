"""Few steps on MNIST: the U-Net's student (`mlxflow distill`) in 1, 2 and 4 calls beside its teacher.

All start from the same noise. *Distance*: RMS difference a pixel from the teacher's own picture of REFERENCE, the
median over the pictures.
"""

from pathlib import Path

import numpy as np

from apps.experiment import figure, position, recipe_values, snapshot, table, train
from mlxflow.data.labelled import to_rgba
from mlxflow.evaluation.classifier import Judge
from mlxflow.sampling.classes import ClassSampler
from mlxflow.sampling.pipeline import SHORTCUT, Settings

GUIDANCE = 3.0
# Solver and steps; the last is what the others are compared with.
TEACHER = (("euler", 1), ("euler", 2), ("euler", 4), ("euler", 16), ("heun", 16))
REFERENCE = TEACHER[-1]
STUDENT = ((SHORTCUT, 1), (SHORTCUT, 2), (SHORTCUT, 4))
SHOWN = 20


def drawn(sampler: ClassSampler, count: int, solver: str, steps: int) -> tuple[np.ndarray, np.ndarray, int]:
    """`count` pictures of the classes in turn, the classes, and how often the network was asked for a picture: twice a
    step where it is guided."""
    labels = np.arange(count) % len(sampler.names)
    guidance = 1.0 if solver == SHORTCUT else GUIDANCE
    parts = list(sampler.draw(labels.tolist(), count, 0, Settings(steps, solver, guidance), batch=50))
    calls = max(part.nfe for part in parts) * (1 if guidance == 1 else 2)
    return np.concatenate([part.values for part in parts]), labels, calls


def distance(images: np.ndarray, reference: np.ndarray) -> float:
    squared = np.square(images - reference).reshape(len(images), -1).mean(axis=1)
    return float(np.median(np.sqrt(squared)))


def few(teacher: Path, out: Path, data: Path, recipe: Path, judge_: Judge, *, count: int, ranks: int) -> str:
    """Trains the student of the weights `teacher` in `out`; the Markdown, and few.png beside `out`."""
    run, steps = out / "student", recipe_values(recipe)["steps"]
    train(run, data, recipe, ranks=ranks, steps=steps, settings={"teacher": str(teacher)})
    student = snapshot(run, out / "student.safetensors")
    minutes = position(run)["seconds"] / 60
    teachers, students = ClassSampler.load(teacher), ClassSampler.load(student)
    reference, _, _ = drawn(teachers, count, *REFERENCE)
    rows, pictures = [], []
    for name, sampler, ways in (("teacher", teachers, TEACHER), ("student", students, STUDENT)):
        for solver, number in ways:
            images, labels, calls = drawn(sampler, count, solver, number)
            scores = judge_.scores(images, labels)
            title = f"{name}, {number} step{'s' if number > 1 else ''}"
            rows.append([f"{title} of {solver}", calls, f"{100 * scores['read as asked']:.1f} %",
                         f"{scores['frechet']:.1f}", f"{distance(images, reference):.3f}"])
            pictures.append((f"{title} of {solver}: {calls} calls", to_rgba(images[:SHOWN])))
    figure(pictures).save(out.parent / "few.png", optimize=True)
    head = ["", "calls of the network", f"read as asked, of {count}", "Fréchet", "distance"]
    return "\n".join([
        "## Few steps", "",
        f"The U-Net's student after {steps:,} steps of {recipe_values(recipe)['batch']} ({minutes:.1f} minutes), guidance "
        f"{GUIDANCE:g} built in, so that it is asked once a step where its teacher is asked twice.", "",
        table(head, rows), "", "![In few steps](few.png)", "",
        f"Distance: RMS a pixel, of pictures from -1 to 1, from the teacher's picture of {REFERENCE[1]} steps of "
        f"{REFERENCE[0]} from the same noise, the median. Fréchet: of these pictures, of guidance {GUIDANCE:g}.", ""])
