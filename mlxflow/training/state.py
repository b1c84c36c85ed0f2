"""Checkpoints: complete, written beside and renamed, so that one is either there whole or not there at all.

    runs/x/checkpoints/step-00001000/  model.safetensors  ema.safetensors  optimizer.safetensors  state.json

All randomness of a run follows from its seed and the step (see data/stream.py and training/trainer.py), so the
step is also the data position and the random state.
"""

import json
import os
import re
import shutil
from pathlib import Path

from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.weights import read_arrays, write_arrays

_NAME = re.compile(r"step-(\d{8})")


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    folder = run / "checkpoints"
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def sync(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(run: Path, step: int, parts: dict[str, dict[str, mx.array]], state: dict, config: dict,
                    keep: int) -> Path:
    """Write `parts` (file stem to arrays by name) and `state`; afterwards all but the newest `keep` are removed.

    Interrupted or out of disk, it leaves the older checkpoints as they were.
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    final = folder / f"step-{step:08d}"
    partial = folder / f".partial-{step:08d}"
    try:
        partial.mkdir()
        for stem, arrays in parts.items():
            write_arrays(partial / f"{stem}.safetensors", arrays, config)
        text = partial / "state.json"
        with open(text, "w", encoding="utf-8") as f:
            json.dump({"step": step, **state}, f)
            f.flush()
            os.fsync(f.fileno())
        sync(partial)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        sync(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        older = checkpoints(run)
        valid = f"{older[-1]} is still valid" if older else "there is no older one"
        raise MlxflowError(f"The checkpoint of step {step} could not be written ({error}); {valid}.") from None
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, mx.array]], dict]:
    """The parts and the state of one checkpoint."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise MlxflowError(f"{folder} is not a whole checkpoint: its state.json cannot be read.") from None
    parts = {file.stem: read_arrays(file) for file in sorted(folder.glob("*.safetensors"))}
    return parts, state
