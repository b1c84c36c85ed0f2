"""Networks by name: a config dictionary, as it is stored beside the weights, becomes a module."""

from dataclasses import fields, is_dataclass
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
    """The module that `config` describes: {"kind": "text-unet", "text": {...}, "unet": {...}}."""
    kind = config.get("kind")
    if kind == "text-unet":
        from mlxflow.networks.text_unet import TextUNet, TextUNetConfig

        return TextUNet(from_dict(TextUNetConfig, {k: v for k, v in config.items() if k != "kind"}))
    raise MlxflowError(f"There is no network '{kind}' in this version of mlxflow.")
