"""`mlxflow parity [WEIGHTS]`: the network against its PyTorch twin, stage by stage."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption

# Read when MLX, the BLAS and PyTorch start. TF32 would shorten float32 products on CUDA and the newest Apple
# chips; the products here are small, and threads would wait for each other.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def parity(
    weights: Annotated[str, typer.Argument(
        help="A weights folder, a run, a .safetensors file, or shipped weights.")] = "emoji",
    json: Annotated[Path | None, typer.Option(
        show_default=False, help="Write every stage to this file.")] = None,
    everything: Annotated[bool, typer.Option(
        "--all", help="Print every stage, not the worst of each block.")] = False,
    device: DeviceOption = None,
) -> None:
    """Does the MLX network compute what its PyTorch twin computes? Outputs, loss, gradients, training,
    pictures.

    Each line is the worst of its stages: max abs is the largest difference, max rel the same over the largest
    number of the twin's array. The first line that is out of tolerance is where they part. Needs PyTorch (pip
    install torch). Exits with 1 if any stage is out of tolerance.

    Example:

      mlxflow parity emoji --json parity.json
    """
    from mlxflow import runtime
    from mlxflow.parity.report import Line, compare

    terminal = sys.stderr.isatty()

    def note(what: str) -> None:
        if terminal:
            print(f"\r\033[K{what} ...", end="", file=sys.stderr, flush=True)

    try:
        report = compare(weights, note)
    finally:
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    if json is not None:
        report.write(json)
    lines = report.lines()
    if everything:
        lines = [Line(f"{name}: {r.stage}", r, 1) for name, rows in report.sections.items() for r in rows]
    width = max(len(name) for name, _, _ in lines)
    print(f"{'stage':<{width}}  {'max abs':>8}  {'max rel':>8}  verdict")
    for name, worst, _ in lines:
        verdict = "ok" if worst.ok else f"DIFFERS at {worst.stage}"
        print(f"{name:<{width}}  {worst.absolute:8.1e}  {worst.relative:8.1e}  {verdict}")
    count = sum(len(rows) for rows in report.sections.values())
    if report.ok:
        print(f"{count:,} stages agree: MLX on {runtime.device()}, PyTorch {report.torch} on {report.twin_device}")
        return
    section, failure = report.first_failure
    print(f"they part at {section}: {failure.stage}")
    raise typer.Exit(1)
