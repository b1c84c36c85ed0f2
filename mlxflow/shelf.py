"""Weights that the user has added under a name: `$XDG_DATA_HOME/mlxflow/weights/NAME/`, whole or not there at
all.
"""

import os
import re
import secrets
import shutil
from pathlib import Path

from mlxflow import paths, weights
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx


def add(source: str | Path, name: str | None = None, force: bool = False) -> Path:
    """Copies weights, checked and in float16 (quantised ones as they are), with the files that they need:
    their folder.

    source: what `weights.resolve` takes. name: letters, digits, dashes, dots and underscores; the source's
    own if None. Raises MlxflowError for a name that is taken (one that was added may be replaced with
    `force`) or no name at all.
    """
    model = weights.load(source)
    if name is None:
        name = Path(source).stem if Path(source).suffix == ".safetensors" else Path(source).resolve().name
    _check(name)
    if name in shipped():
        raise MlxflowError(f"'{name}' is shipped with mlxflow: choose another name.")
    target = paths.user_weights_dir() / name
    if target.exists() and not force:
        raise MlxflowError(
            f"There are weights called '{name}' already: choose another name, or replace them with --force."
        )
    beside = target.parent / f".{secrets.token_hex(8)}"
    old = target.parent / f".{secrets.token_hex(8)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        weights.save(
            beside,
            weights.read_arrays(model.source),
            model.config,
            model.words_path,
            autoencoder=model.autoencoder_path,
            dtype=None if model.config.get("quantization") else mx.float16,
        )
        if target.exists():
            os.rename(target, old)
        os.rename(beside, target)
    except OSError as error:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise MlxflowError(f"{target} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def remove(name: str) -> Path:
    """Removes weights that were added; returns where they were. Raises MlxflowError for shipped or unknown
    ones.
    """
    _check(name)
    target = paths.user_weights_dir() / name
    if name in shipped() and not target.exists():
        raise MlxflowError(f"'{name}' is shipped with mlxflow and stays.")
    if not (target / weights.MODEL).is_file():
        added = sorted(set(weights.names()) - shipped())
        raise MlxflowError(f"There are no weights called '{name}': added are {', '.join(added) or 'none'}.")
    # Out of sight first: a removal that is cut off leaves no half of a model.
    gone = target.parent / f".{secrets.token_hex(8)}"
    try:
        os.rename(target, gone)
    except OSError as error:
        raise MlxflowError(f"{target} cannot be removed: {error.strerror}.") from None
    shutil.rmtree(gone, ignore_errors=True)
    return target


def shipped() -> set[str]:
    """The names of the weights that came with the package."""
    return {file.parent.name for file in paths.weights_dir().glob(f"*/{weights.MODEL}")}


def _check(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name, re.ASCII):
        raise MlxflowError(
            f"'{name}' is no name for weights: use letters, digits, dashes, dots and underscores."
        )
