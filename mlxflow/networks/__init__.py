"""Networks by name: a config dictionary, as it is stored beside the weights, becomes a module."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_origin, get_type_hints

# The runtime first: whichever network is imported, the fast BLAS comes before `mlx.nn`.
import mlxflow.runtime  # noqa: F401
from mlxflow.errors import MlxflowError


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """A (nested) config dataclass from plain JSON values; unknown names are an error, lists become tuples."""
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - {f.name for f in fields(cls)})
    if unknown:
        raise MlxflowError(f"{cls.__name__} has no field {', '.join(unknown)}: these weights need another version.")
    made = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            value = from_dict(hints[name], value)
        elif get_origin(hints[name]) is tuple:
            value = tuple(value)
        made[name] = value
    return cls(**made)


def build(config: dict[str, Any]):
    """The module that `config` describes: {"kind": "text-unet", "text": {...}, "unet": {...}} or another kind.

    "preset" names a table of sizes of that kind, which the config's other fields override. Every velocity network
    has `shape` (H, W, C), `encode(*inputs)` -> condition, `dropped(inputs, keep)` -> inputs with nulls,
    `predict(x, t, condition)`, and is itself called with (x, t, *inputs). One made by `few_step` predicts over a step
    as well: `predict(x, t, condition, step)`.
    """
    values = {k: v for k, v in config.items() if k not in ("kind", "preset")}
    kind = config.get("kind")
    if kind == "text-unet":
        from mlxflow.networks.text_unet import TextUNet as Network, TextUNetConfig as Config
        presets = {}
    elif kind == "unet":
        from mlxflow.networks.label_unet import LabelUNet as Network, LabelUNetConfig as Config
        presets = {}
    elif kind == "dit":
        from mlxflow.networks.dit import DiT as Network, DiTConfig as Config, PRESETS as presets
    elif kind == "mamba":
        from mlxflow.networks.mamba import Mamba as Network, MambaConfig as Config, PRESETS as presets
    elif kind == "kl-vae":
        from mlxflow.networks.autoencoder import KLVAE as Network, KLConfig as Config, PRESETS as presets
    elif kind == "vq-vae":
        from mlxflow.networks.autoencoder import VQVAE as Network, VQConfig as Config, PRESETS as presets
    else:
        raise MlxflowError(f"There is no network '{kind}' in this version of mlxflow.")
    if "preset" in config:
        if config["preset"] not in presets:
            names = ", ".join(presets) or "none"
            raise MlxflowError(f"There is no preset '{config['preset']}' of {kind}: there are {names}.")
        values = presets[config["preset"]] | values
    return Network(from_dict(Config, values))


def describe(network) -> dict[str, Any]:
    """The config of a network with every default spelled out: `build` makes it again."""
    return {"kind": network.kind, **asdict(network.config)}


def few_step(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the same network with one more input, the step size: see `StepEmbedding` and flow/fewstep.py."""
    if config.get("kind") == "text-unet":
        return config | {"unet": config.get("unet", {}) | {"few_step": True}}
    return config | {"few_step": True}
