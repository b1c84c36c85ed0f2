"""Weights on disk: a folder (model.safetensors, config.json, words.safetensors), a lone file, or a run folder.

    config = {"format": 1, "model": {...}, "process": {"path", "prediction", "floor"}, "words": sha256,
              "trained": {"steps", "images", ...}}

The config is also in the safetensors metadata, so that the lone file loads. Loading is strict: every name and
shape must be the network's own and every value finite.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlxflow.paths as paths
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx

from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

MODEL, CONFIG, WORDS = "model.safetensors", "config.json", "words.safetensors"
AUTOENCODER = "autoencoder.safetensors"


@dataclass
class Model:
    """A network with its weights, the process that it was trained for, and where its word table is."""

    network: object
    config: dict
    words_path: Path | None
    source: Path
    autoencoder_path: Path | None = None
    """words_path is None for a model that is told no words, autoencoder_path for one that works on pixels."""

    @property
    def image_size(self) -> int:
        return self.network.shape[0]

    def velocity(self, compiled: bool = True) -> Callable:
        """velocity(x, t, condition), whatever the network predicts."""
        return velocity_of(self.network, self.config["process"], compiled)


def path_of(process: dict):
    """The probability path of a config's process, with its sigma_min where it has one."""
    from mlxflow.flow.paths import path_by_name

    return path_by_name(process["path"], **{n: process[n] for n in ("sigma_min",) if n in process})


def velocity_of(network, process: dict, compiled: bool = True) -> Callable:
    """velocity(x `[B, ...]`, t `[B]`, condition) from a network's prediction; compiled where the back end can."""
    path, prediction, floor = path_of(process), process["prediction"], process["floor"]

    def velocity(x, t, condition):
        return path.convert(x, network.predict(x, t, condition), t, prediction, "velocity", floor)

    return mx.compile(velocity) if compiled else velocity


def resolve(path: str | Path) -> Path:
    """The safetensors file that `path` means: itself, a weights folder's, a checkpoint's or a run's newest EMA.

    A bare name is a shipped model's if there is one: a data folder `emoji/` does not hide the model "emoji".
    """
    path = Path(path)
    if len(path.parts) == 1 and (paths.weights_dir() / path / MODEL).is_file():
        path = paths.weights_dir() / path
    if path.is_file():
        return path
    if not path.is_dir():
        raise MlxflowError(f"There are no weights at {path}.")
    for name in ("ema.safetensors", MODEL):
        if (path / name).is_file():
            return path / name
    newest = sorted((path / "checkpoints").glob("step-*"))
    if newest:
        return newest[-1] / "ema.safetensors"
    raise MlxflowError(f"{path} holds no {MODEL}: give a weights folder, a run folder or a .safetensors file.")


def read_config(file: Path) -> dict:
    """The config in a safetensors file's metadata (else the config.json beside it), without reading the arrays."""
    try:
        with open(file, "rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            if length > 100_000_000 or length > os.path.getsize(file):
                raise ValueError
            metadata = json.loads(f.read(length)).get("__metadata__") or {}
            text = metadata.get("config")
    except (struct.error, ValueError, AttributeError):
        raise MlxflowError(f"{file} is not a safetensors file, or was cut off.") from None
    beside = file.parent / CONFIG
    try:
        config = json.loads(text if text else beside.read_text(encoding="utf-8"))
        for part, kind in (("model", dict), ("process", dict)):
            if not isinstance(config[part], kind):
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise MlxflowError(f"{file} holds no config, and there is none in {beside}.") from None
    return config


def build_from(config: dict, file: Path):
    """The network of a config that was read from `file`; raises MlxflowError when the config makes no sense."""
    from mlxflow.flow.paths import KINDS
    from mlxflow.networks import build

    try:
        network, process = build(config["model"]), config["process"]
        if hasattr(network, "predict"):
            path_of(process)
            if process["prediction"] not in KINDS or not 0 < process["floor"] < 1:
                raise ValueError("prediction or floor of the process is wrong")
        return network
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise MlxflowError(f"The config of {file} describes no network: {reason}.") from None


def read_arrays(file: Path) -> dict[str, mx.array]:
    """All arrays of a safetensors file, evaluated; a truncated file is a sentence."""
    try:
        arrays = mx.load(str(file))
        mx.eval(arrays)
    except (RuntimeError, ValueError, OSError) as error:
        raise MlxflowError(f"{file} cannot be read as weights: {error}") from None
    return arrays


def check_arrays(arrays: dict[str, mx.array], network, source: Path) -> None:
    """Raises MlxflowError that lists every missing, unexpected, mis-shaped or non-finite array."""
    wanted = dict(tree_flatten(network.parameters()))
    wrong = [f"missing {n}" for n in sorted(wanted.keys() - arrays.keys())]
    wrong += [f"unexpected {n}" for n in sorted(arrays.keys() - wanted.keys())]
    both = sorted(wanted.keys() & arrays.keys())
    wrong += [f"{n} has shape {tuple(arrays[n].shape)} instead of {tuple(wanted[n].shape)}"
              for n in both if arrays[n].shape != wanted[n].shape]
    finite = {n: mx.isfinite(arrays[n]).all() for n in both}
    mx.eval(finite)
    wrong += [f"{n} has values that are not finite" for n in both if not finite[n].item()]
    if wrong:
        raise MlxflowError(f"{source} does not fit its network: {'; '.join(wrong)}.")


def load(path: str | Path = "emoji", dtype: mx.Dtype | None = None) -> Model:
    """A model ready to sample, in evaluation mode.

    path: see `resolve`. dtype: float32 on the CPU, where half precision is slow; the stored type elsewhere.
    """
    file = resolve(path)
    config = read_config(file)
    network = build_from(config, file)
    arrays = read_arrays(file)
    check_arrays(arrays, network, file)
    if dtype is None and mx.default_device() == mx.Device(mx.cpu):
        dtype = mx.float32
    if dtype is not None:
        arrays = {n: a.astype(dtype) for n, a in arrays.items()}
    network.update(tree_unflatten(list(arrays.items())))
    network.eval()
    mx.eval(network.parameters())
    words = find_words(file, config) if network.kind == "text-unet" else None
    autoencoder = find_autoencoder(file, config) if "autoencoder" in config else None
    return Model(network, config, words, file, autoencoder)


def find_words(file: Path, config: dict) -> Path:
    """The word table of a weights file: beside it, in its run folder, else the shipped one with the same hash."""
    from mlxflow.data.words import WordTable

    places = [file.parent / WORDS, file.parent.parent.parent / WORDS, paths.weights_dir() / "emoji" / WORDS]
    for place in places:
        if place.is_file() and WordTable.load(place).sha256 == config.get("words"):
            return place
    raise MlxflowError(f"The word table of {file} is missing: put the {WORDS} that it was trained with beside it.")


def find_autoencoder(file: Path, config: dict) -> Path:
    """The autoencoder of a latent model's weights file: beside it or in its run folder, the one with the hash."""
    for place in (file.parent / AUTOENCODER, file.parent.parent.parent / AUTOENCODER):
        if place.is_file() and file_sha256(place) == config["autoencoder"].get("sha256"):
            return place
    raise MlxflowError(f"The autoencoder of {file} is missing: put the {AUTOENCODER} that it was trained with beside it.")


def file_sha256(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_arrays(file: Path, arrays: dict[str, mx.array], config: dict | None = None) -> None:
    """A safetensors file, flushed to the disk; the config goes into its metadata."""
    metadata = {"format": "mlx"} | ({"config": json.dumps(config)} if config else {})
    mx.save_safetensors(str(file), arrays, metadata)
    with open(file, "rb+") as f:
        os.fsync(f.fileno())


def save(folder: Path, arrays: dict[str, mx.array], config: dict, words: Path | None = None, *,
         autoencoder: Path | None = None, dtype: mx.Dtype = mx.float16, force: bool = False) -> None:
    """A weights folder of `arrays` by parameter name, with the word table or the autoencoder that the model needs.

    Files appear whole or not at all; others in the folder are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MODEL).exists() and not force:
        raise MlxflowError(f"{folder} already holds weights: add --force to replace them.")
    partial = folder / f".partial-{os.getpid()}"
    partial.mkdir()
    try:
        write_arrays(partial / MODEL, {n: a.astype(dtype) for n, a in arrays.items()}, config)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, source in ((WORDS, words), (AUTOENCODER, autoencoder)):
            if source is not None and source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, partial / name)
        for file in partial.iterdir():
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
