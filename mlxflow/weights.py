"""Weights on disk: a folder (model.safetensors, config.json, words.safetensors), a lone file, or a run folder.

    config = {"format": 1, "model": {...}, "process": {"path", "prediction", "floor"}, "words": sha256,
              "trained": {"steps", "images", ...}, "quantization": {"bits", "group_size"}}

The config is also in the safetensors metadata, so that the lone file loads. Loading is strict: every name, shape and
kind of number must be the network's own and every value finite. "quantization" is there for quantised weights only
(networks/quantise.py).
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import contextmanager, suppress
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
        """velocity(x, t, condition), whatever the network predicts; see `velocity_of`."""
        return velocity_of(self.network, self.config["process"], compiled)


def path_of(process: dict):
    """The probability path of a config's process, with its sigma_min where it has one."""
    from mlxflow.flow.paths import path_by_name

    return path_by_name(process["path"], **{n: process[n] for n in ("sigma_min",) if n in process})


def velocity_of(network, process: dict, compiled: bool = True) -> Callable:
    """velocity(x `[B, ...]`, t `[B]`, condition) from a network's prediction; compiled where the back end can.

    Of a few-step network also velocity(x, t, condition, h `[B]`), the average over a step of h (flow/fewstep.py).
    """
    path, prediction, floor = path_of(process), process["prediction"], process["floor"]

    def velocity(x, t, condition, *step):
        return path.convert(x, network.predict(x, t, condition, *step), t, prediction, "velocity", floor)

    return mx.compile(velocity) if compiled else velocity


def resolve(path: str | Path) -> Path:
    """The safetensors file that `path` means: itself, a weights folder's, a checkpoint's or a run's newest EMA.

    A bare name is a shipped model's if there is one, else one that the user has added: a data folder `emoji/` does not
    hide the model "emoji".
    """
    path = Path(path)
    if len(path.parts) == 1:
        for folder in (paths.weights_dir(), paths.user_weights_dir()):
            if (folder / path / MODEL).is_file():
                path = folder / path
                break
    if path.is_file():
        return path
    if not path.is_dir():
        known = f" Known names: {', '.join(names())}." if len(path.parts) == 1 and not path.suffix else ""
        raise MlxflowError(f"There are no weights at {path}.{known}")
    for name in ("ema.safetensors", MODEL):
        if (path / name).is_file():
            return path / name
    newest = sorted((path / "checkpoints").glob("step-*"))
    if newest:
        return newest[-1] / "ema.safetensors"
    raise MlxflowError(f"{path} holds no {MODEL}: give a weights folder, a run folder or a .safetensors file.")


def names() -> list[str]:
    """The names of the shipped weights, then of those that the user has added."""
    return [file.parent.name for folder in (paths.weights_dir(), paths.user_weights_dir())
            for file in sorted(folder.glob(f"*/{MODEL}"))]


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading the arrays."""
    try:
        with open(file, "rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            if length > 100_000_000 or length > os.path.getsize(file):
                raise ValueError
            metadata = json.loads(f.read(length)).get("__metadata__") or {}
        if not isinstance(metadata, dict):
            raise ValueError
        return metadata
    except (struct.error, ValueError, AttributeError, RecursionError):
        raise MlxflowError(f"{file} is not a safetensors file, or was cut off.") from None
    except OSError as error:
        raise MlxflowError(f"{file} cannot be read: {error.strerror}.") from None


def read_config(file: Path) -> dict:
    """The config in a safetensors file's metadata (else the config.json beside it), without reading the arrays."""
    text = read_metadata(file).get("config")
    beside = file.parent / CONFIG
    try:
        config = json.loads(text if text else beside.read_text(encoding="utf-8"))
        for part, kind in (("model", dict), ("process", dict)):
            if not isinstance(config[part], kind):
                raise ValueError
        if not isinstance(config.get("quantization", {}), dict):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise MlxflowError(f"{file} holds no config, and there is none in {beside}.") from None
    return config


def build_from(config: dict, file: Path):
    """The network of a config that was read from `file`; raises MlxflowError when the config makes no sense."""
    from mlxflow.flow.paths import KINDS
    from mlxflow.networks import build
    from mlxflow.networks.quantise import quantise

    try:
        network, process = build(config["model"]), config["process"]
        if "quantization" in config:
            quantise(network, **config["quantization"])
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
        reason = str(error).removeprefix("[load_safetensors] ")
        raise MlxflowError(f"{file} cannot be read as weights: {reason}") from None
    return arrays


def differences(shapes: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> list[str]:
    """What is missing, unexpected or of another shape, by name, all of it."""
    both = sorted(wanted.keys() & shapes.keys())
    return [*(f"missing {n}" for n in sorted(wanted.keys() - shapes.keys())),
            *(f"unexpected {n}" for n in sorted(shapes.keys() - wanted.keys())),
            *(f"{n} has shape {shapes[n]} instead of {wanted[n]}" for n in both if shapes[n] != wanted[n])]


def check_arrays(arrays: dict[str, mx.array], network, source: Path) -> None:
    """Raises MlxflowError that lists every missing, unexpected, mis-shaped, wrongly typed or non-finite array."""
    parameters = dict(tree_flatten(network.parameters()))
    wrong = differences(*({n: tuple(a.shape) for n, a in group.items()} for group in (arrays, parameters)))
    both = sorted(parameters.keys() & arrays.keys())
    # Packed bits are integers; everything else is a float of some width.
    wrong += [f"{n} has numbers of type {_type(arrays[n])} instead of {_type(parameters[n])}" for n in both
              if not (arrays[n].dtype == parameters[n].dtype or _is_float(arrays[n]) and _is_float(parameters[n]))]
    finite = {n: mx.isfinite(arrays[n]).all() for n in both}
    mx.eval(finite)
    wrong += [f"{n} has values that are not finite" for n in both if not finite[n].item()]
    if wrong:
        raise MlxflowError(f"{source} does not fit its network: {'; '.join(wrong)}.")


def _is_float(array: mx.array) -> bool:
    return mx.issubdtype(array.dtype, mx.floating)


def _type(array: mx.array) -> str:
    return str(array.dtype).removeprefix("mlx.core.")


def cast(arrays: dict[str, mx.array], dtype: mx.Dtype | None) -> dict[str, mx.array]:
    """The floats among them as `dtype` (None: as they are); packed bits stay integers."""
    return {n: a.astype(dtype) if dtype is not None and _is_float(a) else a for n, a in arrays.items()}


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
    arrays = cast(arrays, dtype)
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


def write_arrays(file: Path, arrays: dict[str, mx.array], config: dict | None = None, form: str = "mlx") -> None:
    """A safetensors file, flushed to the disk; the config goes into its metadata. form: "mlx", or "pt" for torch's."""
    metadata = {"format": form} | ({"config": json.dumps(config)} if config else {})
    mx.save_safetensors(str(file), arrays, metadata)
    with open(file, "rb+") as f:
        os.fsync(f.fileno())


def save(folder: Path, arrays: dict[str, mx.array], config: dict, words: Path | None = None, *,
         autoencoder: Path | None = None, dtype: mx.Dtype | None = mx.float16, force: bool = False) -> None:
    """A weights folder of `arrays` by parameter name, with the word table or the autoencoder that the model needs.

    Everything is written beside and then renamed: a new folder appears whole or not at all, in one that is there each
    file is replaced whole, the model last, and others are kept. dtype: of the floats, None for as they are.
    """
    refuse_existing(folder / MODEL, folder, "weights", force)
    new = not folder.exists()
    partial = (folder.parent if new else folder) / f".partial-{os.getpid()}"
    with writing(folder, partial):
        partial.mkdir(parents=True)
        write_arrays(partial / MODEL, cast(arrays, dtype), config)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, source in ((WORDS, words), (AUTOENCODER, autoencoder)):
            if source is not None and source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, partial / name)
        if new:
            os.rename(partial, folder)
        else:
            for file in sorted(partial.iterdir(), key=lambda file: file.name == MODEL):
                os.replace(file, folder / file.name)


def refuse_existing(file: Path, target: Path, what: str, force: bool) -> None:
    """Raises MlxflowError where `file` exists, unless `force`."""
    if file.exists() and not force:
        raise MlxflowError(f"{target} already holds {what}: add --force to replace them.")


@contextmanager
def writing(target: Path, partial: Path):
    """Around writing `partial` (a file or a folder) and renaming it to `target`: whatever fails, partial is removed.

    A full disk, a folder that is not writable and the like become a MlxflowError.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MlxflowError(f"{target} could not be written ({reason}); nothing was changed.") from None
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(OSError):
                partial.unlink()
