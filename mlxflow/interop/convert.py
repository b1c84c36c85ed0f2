"""Weights from any of their forms to any other: `read` makes a Source of them, `write_*` a target of a Source.

    a weights folder, a run, shipped weights, a .safetensors file of ours       MLX's order of axes, config inside
    .pt, .pth, .ckpt, .bin, other .safetensors files                            torch's order (interop/torch.py)
    a diffusers folder with an AutoencoderKL                                    interop/diffusers.py

Weights without a config need one: `like` takes that of other weights, `config` a file. Names, shapes, types and
values are compared with the network's before anything is written. A target is written beside and renamed.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from mlxflow.runtime import mx

import numpy as np  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from mlxflow import paths, weights  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.interop import checkpoint, diffusers  # noqa: E402
from mlxflow.interop.torch import from_torch, to_torch  # noqa: E402

DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}
SAFETENSORS = ".safetensors"
Arrays = dict[str, mx.array]


@dataclass(frozen=True)
class Source:
    """Weights that fit their network: a plain one, in MLX's order; quantised ones were made floats again.

    note: what of a file was taken, where there was a choice.
    """

    file: Path
    config: dict
    network: object
    arrays: Arrays
    words: Path | None = None
    autoencoder: Path | None = None
    note: str = ""

    def model(self, quantise: int | None = None) -> weights.Model:
        """The same as a model, its arrays as they are, or quantised to 8 or 4 bits.

        Raises MlxflowError where there is nothing to quantise.
        """
        network = weights.build_from(self.config, self.file)
        network.update(tree_unflatten(list(self.arrays.items())))
        config = self.config
        if quantise:
            from mlxflow.networks.quantise import GROUP_SIZE
            from mlxflow.networks.quantise import quantise as quantised

            config = config | {"quantization": {"bits": quantise, "group_size": GROUP_SIZE}}
            names = dict(tree_flatten(quantised(network, quantise).parameters()))
            if not any(name.endswith(".scales") for name in names):
                raise MlxflowError(f"{self.file} has no layer that MLX can quantise: use --dtype float16 instead.")
        network.eval()
        return weights.Model(network, config, self.words, self.file, self.autoencoder)


def read(path: str | Path, config: Path | None = None, like: str | Path | None = None) -> Source:
    """The weights at `path`. Raises MlxflowError for whatever does not fit, all of it in one sentence."""
    path = Path(path)
    if config is not None and like is not None:
        raise MlxflowError("--config and --like both say what the network is: give one of them.")
    if _is_diffusers(path):
        if config is not None or like is not None:
            raise MlxflowError(f"{path} has a config of its own: leave --config and --like out.")
        return _read_diffusers(path)
    file = weights.resolve(path)
    if file.suffix.lower() not in (*checkpoint.PICKLES, SAFETENSORS):
        raise MlxflowError(f"{file} is none of {', '.join(checkpoint.PICKLES)} or {SAFETENSORS}.")
    if file.suffix.lower() in checkpoint.PICKLES or _is_foreign(file):
        return _read_torch(file, config, like)
    if config is not None or like is not None:
        raise MlxflowError(f"{path} has a config of its own: leave --config and --like out.")
    return _read_mlx(file)


def _is_diffusers(path: Path) -> bool:
    folder = path.parent if path.name == diffusers.FILE else path
    if not folder.is_dir() or (folder / weights.MODEL).exists():
        return False
    try:
        return "_class_name" in json.loads((folder / weights.CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return (folder / diffusers.FILE).exists()


def _read_diffusers(path: Path) -> Source:
    from mlxflow.networks import build

    folder = path.parent if path.name == diffusers.FILE else path
    config, arrays = diffusers.read_diffusers(folder)
    return Source(folder / diffusers.FILE, config, build(config["model"]), arrays,
                  note=f"an AutoencoderKL whose latents are scaled by {config['scale']:g}")


def _is_foreign(file: Path) -> bool:
    """Whether a .safetensors file was written by something else than MLX."""
    return weights.read_metadata(file).get("format") != "mlx"


def _read_mlx(file: Path) -> Source:
    from mlxflow.networks.quantise import dequantised

    config = weights.read_config(file)
    network = weights.build_from(config, file)
    arrays = weights.read_arrays(file)
    weights.check_arrays(arrays, network, file)
    note = "the averaged weights of a run" if file.name.startswith("ema") else ""
    if "quantization" in config:
        network.update(tree_unflatten(list(arrays.items())))
        arrays = dequantised(network)
        note = f"{config['quantization']['bits']}-bit weights, which stay as rounded as they are"
        config = {name: value for name, value in config.items() if name != "quantization"}
        network = weights.build_from(config, file)
    return Source(file, config, network, arrays, *_companions(file, config), note)


def _companions(file: Path, config: dict) -> tuple[Path | None, Path | None]:
    """The word table and the autoencoder that weights with this config need."""
    return (weights.find_words(file, config) if "words" in config else None,
            weights.find_autoencoder(file, config) if "autoencoder" in config else None)


def _read_torch(file: Path, config: Path | None, like: str | Path | None) -> Source:
    if file.suffix.lower() in checkpoint.PICKLES:
        tree = checkpoint.read_pickle(file)
        own = checkpoint.config_in(tree)
    else:
        tree = weights.read_arrays(file)
        own = checkpoint.config_in({"config": weights.read_metadata(file).get("config")})
    made, beside = _config_for(file, own, config, like)
    network = weights.build_from(made, config or file)
    wanted = dict(tree_flatten(network.parameters()))
    state = checkpoint.state_of(tree, set(wanted), file)
    _compare(state, network, wanted, file)
    arrays = {name: _float32(array) for name, array in from_torch(network, state.arrays).items()}
    arrays = {name: arrays[name] for name in wanted}
    weights.check_arrays(arrays, network, file)
    note = (f"the averaged weights, '{state.origin}'" if state.averaged
            else f"the weights in '{state.origin}'" if state.origin else "")
    return Source(file, made, network, arrays, *_companions(beside, made), note)


def _config_for(file: Path, own: dict | None, config: Path | None, like: str | Path | None) -> tuple[dict, Path]:
    """The config of a checkpoint, and the file beside which its word table or autoencoder lies."""
    beside = file
    if like is not None:
        # How long those were trained says nothing of these.
        beside = weights.resolve(like)
        made = {name: value for name, value in weights.read_config(beside).items() if name != "trained"}
    elif config is not None:
        made = read_config_file(config)
    elif own is not None:
        made = own
    else:
        raise MlxflowError(f"{file} does not say which network it belongs to: add --like WEIGHTS (other weights of the "
                           "same network) or --config FILE (the config.json of weights or of a run, or a recipe).")
    made.pop("quantization", None)
    return _with_words(made, beside), beside


def read_config_file(file: Path) -> dict:
    """A weights config from a config.json of weights or of a run, or from a TOML recipe."""
    from mlxflow.networks import build, describe
    from mlxflow.training.config import from_values, read_recipe

    if file.suffix.lower() == ".toml":
        values = read_recipe(file)
    else:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise MlxflowError(f"The config {file} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise MlxflowError(f"The config {file} is not JSON: {error}.") from None
    if isinstance(values, dict) and isinstance(values.get("train"), dict):
        values = values["train"]
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise MlxflowError(f"The config {file} has no part 'model'.")
    if isinstance(values.get("process"), dict):
        return {"format": 1} | values
    training = from_values(values, str(file))
    try:
        network = build(training.model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise MlxflowError(f"The model of {file} describes no network: {error}.") from None
    process = training.process() if hasattr(network, "predict") else {}
    return {"format": 1, "model": describe(network), "process": process}


def _with_words(config: dict, file: Path) -> dict:
    """The config of a model that reads words, with the hash of its table: the one beside the file, else the shipped."""
    from mlxflow.data.words import WordTable

    if config["model"].get("kind") != "text-unet" or "words" in config:
        return config
    places = (file.parent / weights.WORDS, paths.weights_dir() / "emoji" / weights.WORDS)
    table = WordTable.load(next((place for place in places if place.is_file()), places[0]))
    return config | {"words": table.sha256}


def _compare(state: checkpoint.State, network, wanted: Arrays, file: Path) -> None:
    """Raises MlxflowError that lists what is missing, unexpected, mis-shaped or no float, as torch sees it.

    Before any array is copied: a tensor can claim a size that its file does not hold.
    """
    from mlxflow.interop.torch import axes

    orders = axes(network)
    shapes = {name: tuple(array.shape) for name, array in wanted.items()}
    shapes |= {name: tuple(shapes[name][axis] for axis in order) for name, order in orders.items()}
    wrong = weights.differences({name: tuple(array.shape) for name, array in state.arrays.items()}, shapes)
    for name, array in state.arrays.items():
        kind = checkpoint.type_of(array)
        if name in wanted and kind not in checkpoint.FLOATS:
            wrong.append(f"{name} has numbers of type {kind}")
    if wrong:
        part = f" ({state.origin})" if state.origin else ""
        raise MlxflowError(f"{file}{part} does not fit its network: {'; '.join(wrong)}.")


def _float32(array: mx.array) -> mx.array:
    """float64, which Metal has not, as float32; other floats as they are."""
    return array.astype(mx.float32, stream=mx.cpu) if array.dtype == mx.float64 else array


def typed(source: Source, dtype: str | None) -> Source:
    """The source with its floats as `dtype`. Raises MlxflowError for values that are too large for it, all of them."""
    if dtype is None:
        return source
    arrays = weights.cast(source.arrays, DTYPES[dtype])
    finite = {name: mx.isfinite(array).all() for name, array in arrays.items()}
    mx.eval(finite)
    lost = [name for name in sorted(arrays) if not finite[name].item()]
    if lost:
        raise MlxflowError(f"{source.file} has values that {dtype} cannot hold, in {', '.join(lost)}: choose float32 or "
                           "bfloat16.")
    return replace(source, arrays=arrays)


def write_weights(source: Source, target: Path, *, quantise: int | None = None, force: bool = False) -> Path:
    """A weights folder; quantise to 8 or 4 bits. Returns its model file."""
    if target.suffix.lower() in (*checkpoint.PICKLES, SAFETENSORS, ".mlxfn", ".onnx", ".gguf"):
        raise MlxflowError(f"{target} names a file: weights are a folder (for a PyTorch file add --to torch).")
    weights.refuse_existing(target / weights.MODEL, target, "weights", force)
    model = source.model(quantise)
    weights.save(target, dict(tree_flatten(model.network.parameters())), model.config, source.words,
                 autoencoder=source.autoencoder, dtype=None, force=force)
    return target / weights.MODEL


def write_torch(source: Source, target: Path, *, force: bool = False) -> Path:
    """A PyTorch file: .pt or .pth with {"state_dict", "config"}, or .safetensors with the config in its metadata."""
    suffix = target.suffix.lower()
    if suffix not in (".pt", ".pth", SAFETENSORS):
        raise MlxflowError(f"A PyTorch file is called .pt, .pth or {SAFETENSORS}, not {target.name}.")
    refuse(target, force)
    arrays = to_torch(source.network, source.arrays)
    brains = {name for name, array in source.arrays.items() if array.dtype == mx.bfloat16}
    partial = target.parent / f".partial-{os.getpid()}{suffix}"
    with weights.writing(target, partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        if suffix == SAFETENSORS:
            made = {name: mx.array(array) for name, array in arrays.items()}
            made = {name: array.astype(mx.bfloat16) if name in brains else array for name, array in made.items()}
            weights.write_arrays(partial, made, source.config, form="pt")
        else:
            _save_pickle(partial, arrays, brains, source.config)
        os.replace(partial, target)
    return target


def _save_pickle(file: Path, arrays: dict[str, np.ndarray], brains: set[str], config: dict) -> None:
    try:
        import torch
    except ImportError:
        raise MlxflowError("Writing a .pt file needs PyTorch: pip install torch, or name the target .safetensors.") \
            from None
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    state = {name: tensor.to(torch.bfloat16) if name in brains else tensor for name, tensor in state.items()}
    with open(file, "wb") as f:
        torch.save({"state_dict": state, "config": config}, f)
        f.flush()
        os.fsync(f.fileno())


def refuse(target: Path, force: bool) -> None:
    """Raises MlxflowError where the file `target` exists, unless `force`, or a folder has its name."""
    if target.is_dir():
        raise MlxflowError(f"{target} is a folder: name a file.")
    if target.exists() and not force:
        raise MlxflowError(f"{target} exists: add --force to replace it.")
