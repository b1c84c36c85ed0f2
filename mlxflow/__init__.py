"""mlxflow: flow matching in MLX, and an emoji generator made with it.

    import mlxflow

    model = mlxflow.load("emoji")
    model.generate("smiling cat", seed=7).save("smiling-cat.png")

`load` and `Model` are in mlxflow/api.py, which is imported when they are first asked for.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Model", "MlxflowError", "Preview", "load"]

if TYPE_CHECKING:
    from mlxflow.api import Model, Preview, load
    from mlxflow.errors import MlxflowError


def __getattr__(name: str) -> object:
    if name == "MlxflowError":
        from mlxflow.errors import MlxflowError

        return MlxflowError
    if name in __all__:
        from mlxflow import api

        return getattr(api, name)
    raise AttributeError(f"module 'mlxflow' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
