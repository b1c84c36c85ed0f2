"""All comparisons of one weights folder: sections of rows, as a table and as JSON."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mlxflow.runtime import mx

from mlxflow import __version__, runtime, weights  # noqa: E402
from mlxflow.data.words import WordTable  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.parity import checks, errors  # noqa: E402
from mlxflow.parity.errors import Row  # noqa: E402
from mlxflow.parity.pair import Pair  # noqa: E402
from mlxflow.sampling.pipeline import SHORTCUT  # noqa: E402

# The pictures as they are drawn by default, and shorter runs of the other ways.
SAMPLING = (("heun", 3.0, 16), ("heun", 1.0, 8), ("euler", 3.0, 8), ("euler", 1.0, 8))
FEW_STEP = ((SHORTCUT, 1.0, 4), (SHORTCUT, 1.0, 1), ("heun", 1.0, 8))


@dataclass
class Report:
    """sections: rows by what was compared, in the order of computation."""

    source: Path
    sha256: str
    torch: str
    twin_device: str
    sections: dict[str, list[Row]]

    @property
    def ok(self) -> bool:
        return all(r.ok for rows in self.sections.values() for r in rows)

    @property
    def first_failure(self) -> tuple[str, Row] | None:
        """The section and row where the two part."""
        failed = ((name, errors.first_failure(rows)) for name, rows in self.sections.items())
        return next(((name, r) for name, r in failed if r is not None), None)

    def to_dict(self) -> dict:
        failure = self.first_failure
        return {"weights": str(self.source), "sha256": self.sha256, "ok": self.ok,
                "first_failure": f"{failure[0]}: {failure[1].stage}" if failure else None,
                "versions": {"mlxflow": __version__, "mlx": mx.__version__, "torch": self.torch},
                "devices": {"mlx": runtime.device(), "torch": self.twin_device},
                "sections": {name: [r.to_dict() for r in rows] for name, rows in self.sections.items()}}

    def write(self, file: Path) -> None:
        partial = file.with_name(f".partial-{os.getpid()}")
        with weights.writing(file, partial):
            partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            os.replace(partial, file)

    def lines(self) -> list["Line"]:
        """The table: the blocks of the first forward pass, then a line for each of the other sections."""
        made = []
        for name, rows in self.sections.items():
            if name == "forward":
                groups: dict[str, list[Row]] = {}
                for r in rows:
                    groups.setdefault(block_of(r.stage), []).append(r)
                made += [Line(block, errors.worst(group), len(group)) for block, group in groups.items()]
            else:
                made.append(Line(name, errors.worst(rows), len(rows)))
        return made


class Line(NamedTuple):
    """One line of the table: the worst of `count` rows."""

    name: str
    worst: Row
    count: int


def block_of(stage: str) -> str:
    """The block that a module belongs to: "unet.encoder.1.residual.0" of
    "unet.encoder.1.residual.0.modulation.film".
    """
    stage = re.sub(r" \(\d+\)$", "", stage)
    numbered = re.match(r".*\.\d+(?=\.|$)", stage)
    return numbered.group() if numbered else ".".join(stage.split(".")[:2])


def compare(path: str | Path, progress: Callable[[str], None] = lambda what: None) -> Report:
    """Every comparison of the weights at `path` (weights.resolve) with the PyTorch twin, in float32.

    progress(what) is told what comes next. Raises MlxflowError where PyTorch or a twin is missing, or for
    quantised weights, whose kernels PyTorch has not.
    """
    model = weights.load(path, dtype=mx.float32)
    if "quantization" in model.config:
        raise MlxflowError(f"{model.source} is quantised: compare the weights that it was made of.")
    pair = Pair(model.network)
    table = WordTable.load(model.words_path) if model.words_path else None
    process = model.config["process"] or checks.PROCESS
    progress("forward")
    sections = checks.forward(pair, table=table, tolerance=errors.TRAINED)
    for count in (4, 16):
        progress(f"gradients, batch of {count}")
        sections[f"loss and gradients, batch of {count}"] = checks.gradients(pair, count, table=table,
                                                                             process=process)
    for optimizer, name in (("adamw", "AdamW"), ("muon", "Muon")):
        progress(f"training by {name}")
        sections[f"{name}: {checks.STEPS} updates by the same gradients"] = checks.updates(pair, optimizer)
        sections[f"{name}: {checks.STEPS} steps, clipped, with EMA"] = checks.training(
            pair, optimizer, table=table, process=process)
    if not checks.is_velocity(pair.network):
        sections["pictures of latents"] = checks.pictures_of_latents(pair)
    else:
        guided = pair.kind == "text-unet" or bool(pair.network.config.classes)
        if checks.is_few_step(pair.network):
            sections["loss and gradients over a step"] = checks.step_gradients(pair, table=table)
        for solver, guidance, steps in FEW_STEP if "few_step" in process else SAMPLING:
            if guidance == 1 or guided:
                name = f"{steps} steps of {solver}, guidance {guidance:g}"
                progress(name)
                sections[name] = checks.sampling(pair, solver, guidance, steps, table=table, process=process)
    return Report(model.source, weights.file_sha256(model.source), pair.torch.__version__, pair.device.type,
                  sections)
