"""PyTorch checkpoints as people save them, to one flat state dict; nothing that is in a file is run.

    model.state_dict()                                   as it is
    {"state_dict" | "model" | ...: {...}, "optimizer": ...}         the part under a usual name (PLAIN)
    {"model": {...}, "ema" | "ema_model" | ...: {...}}              the averaged weights (EMA) before the others
    names under "module.", "model.", "ema_model.", "_orig_mod."     as DataParallel, Lightning, averages and
                                                                    torch.compile leave them: the prefix goes

Pickles are read by torch with `weights_only=True`: tensors, numbers, text and plain containers, no code. Arrays stay
torch's (tensors, or MLX arrays from .safetensors) until their names, types and shapes have been compared.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxflow.errors import MlxflowError

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
EMA = ("ema", "ema_model", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict",
       "state_dict_ema", "ema_state", "ema_params", "params_ema", "ema_weights")
PLAIN = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights", "online_model",
         "shadow")
LISTED = "shadow_params"
# What averages and norms count beside their arrays: one number each.
COUNTERS = ("n_averaged", "num_updates", "num_batches_tracked", "decay", "initted", "step", "global_step")
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class State:
    """Arrays by name, in torch's order of axes; `origin` says which part of the file they were: "ema_model"."""

    arrays: dict[str, Any]
    origin: str = ""
    averaged: bool = False


def read_pickle(file: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain values. Raises MlxflowError for anything else."""
    try:
        import torch
    except ImportError:
        raise MlxflowError(f"Reading {file} needs PyTorch: pip install torch, or save the weights as .safetensors.") \
            from None
    _refuse_packed(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever its readers meet in a damaged file
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked or "TorchScript" in str(error):
            what = f"{asked[1]}, which is code and is not run" if asked else "a TorchScript program, which is not run"
            raise MlxflowError(f"{file} holds more than tensors ({what}): save the model's state_dict() alone.") \
                from None
        if isinstance(error, OSError):
            raise MlxflowError(f"{file} cannot be read: {error.strerror or error}.") from None
        kind = "damaged, or no PyTorch checkpoint"
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
            kind = "damaged, or holds more than tensors, numbers and text"
        raise MlxflowError(f"{file} is {kind}.") from None


def _refuse_packed(file: Path) -> None:
    """torch.save stores its parts as they are; a file whose parts unfold to more than itself is a trap."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            unfolded = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        raise MlxflowError(f"{file} is damaged, or no PyTorch checkpoint.") from None
    if unfolded > file.stat().st_size:
        raise MlxflowError(f"{file} is compressed, as torch.save never does: it would unfold to {unfolded:,} bytes.")


def config_in(tree: Any) -> dict | None:
    """The config that `mlxflow convert --to torch` (or a trainer that keeps one) put into a checkpoint, if any."""
    config = tree.get("config") if isinstance(tree, Mapping) else None
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            return None
    whole = isinstance(config, Mapping) and all(isinstance(config.get(p), Mapping) for p in ("model", "process"))
    return dict(config) if whole else None


def state_of(tree: Any, wanted: set[str], file: Path) -> State:
    """The state dict in `tree`, under the names that the network has (`wanted`) as far as prefixes allow.

    Names that fit nothing are kept, for the comparison with the network to list.
    """
    if not isinstance(tree, Mapping):
        raise MlxflowError(f"{file} holds no state dict, but a {type(tree).__name__}.")
    found = _descend(tree, file, State({}))
    if not found.arrays:
        raise MlxflowError(f"{file} holds no arrays, neither as it is nor under a usual name such as state_dict, model "
                           "or ema.")
    return _without_prefixes(found, wanted)


def _descend(node: Mapping, file: Path, so_far: State) -> State:
    """The first part of `node` with a usual name and arrays in it, averages first; else its own arrays."""
    keys = {key.lower(): key for key in node if isinstance(key, str)}
    for names, averaged in ((EMA, True), (PLAIN, so_far.averaged)):
        for name in names:
            inner = node.get(keys.get(name))
            here = State({}, f"{so_far.origin}.{keys.get(name)}".lstrip("."), averaged or so_far.averaged)
            if averaged and (listed := _list_of(inner)):
                rest = {key: value for key, value in node.items() if key != keys[name]}
                return _named(listed, _descend(rest, file, so_far), here, file)
            if isinstance(inner, Mapping) and _has_arrays(inner):
                return _descend(inner, file, here)
    own = {str(key): value for key, value in node.items() if _is_array(value)}
    return State(own, so_far.origin, so_far.averaged)


def _list_of(node: Any) -> list:
    """The arrays of an average that is kept as a list without names, else []."""
    inner = node.get(LISTED) if isinstance(node, Mapping) else node
    whole = isinstance(inner, (list, tuple)) and inner and all(map(_is_array, inner))
    return list(inner) if whole else []


def _named(listed: list, plain: State, here: State, file: Path) -> State:
    """A list of averages under the names of the plain weights, whose order and shapes it must have."""
    if [tuple(a.shape) for a in listed] != [tuple(a.shape) for a in plain.arrays.values()]:
        raise MlxflowError(f"{file} keeps its averaged weights ({here.origin}) as a list without names, and they do not "
                           "match the other weights one by one: save them as a state dict.")
    return State(dict(zip(plain.arrays, listed)), here.origin, True)


def _without_prefixes(state: State, wanted: set[str]) -> State:
    arrays = {name.replace("_orig_mod.", ""): array for name, array in state.arrays.items()}
    origin, averaged = state.origin, state.averaged

    def counts(name: str) -> bool:
        return name not in wanted and name.split(".")[-1] in COUNTERS and _size(arrays[name]) == 1

    def own(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in wanted)

    while True:
        arrays = {name: array for name, array in arrays.items() if not counts(name)}
        for key in EMA:
            prefix = f"{key}."
            group = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            if group and not own(prefix):
                # The weights that were averaged stand beside: under a usual prefix, or under the average's names.
                others = {n: a for n, a in arrays.items() if not n.startswith(prefix) and n not in group
                          and not n.startswith(tuple(f"{plain}." for plain in PLAIN))}
                arrays, origin, averaged = group | others, f"{origin}.{key}".lstrip("."), True
                break
        else:
            for key in PLAIN:
                prefix = f"{key}."
                if arrays and all(name.startswith(prefix) for name in arrays) and not own(prefix):
                    arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
                    break
            else:
                break
    # Latent diffusion's average keeps names without their dots.
    undotted = {name.replace(".", ""): name for name in wanted}
    if arrays and not any("." in name or name in wanted for name in arrays):
        arrays = {undotted.get(name, name): array for name, array in arrays.items()}
    return State(arrays, origin, averaged)


def type_of(array: Any) -> str:
    """The name of an array's kind of numbers, "float32"; what is no plain array of numbers in memory says so."""
    if getattr(array, "is_meta", False):
        return "no data"
    if getattr(array, "is_sparse", False) or getattr(array, "is_quantized", False):
        return "sparse or quantised"
    return str(array.dtype).split(".")[-1]


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _has_arrays(node: Any) -> bool:
    inside = isinstance(node, Mapping) and any(map(_has_arrays, node.values()))
    return inside or _is_array(node) or bool(_list_of(node))


def _size(array: Any) -> int:
    size = 1
    for side in array.shape:
        size *= side
    return size
