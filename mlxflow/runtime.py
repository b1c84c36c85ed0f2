"""The first module to touch MLX: everything else says `from mlxflow.runtime import mx`.

It loads a fast BLAS where MLX lacks one (see mlxflow/blas.py; that must come before MLX), imports `mlx.core` and
chooses the device: MLXFLOW_DEVICE (metal, cuda or cpu) if it is set, else the best that MLX finds.
"""

import os

from mlxflow import blas as _blas
from mlxflow.allocator import keep_freed_memory as _keep_freed_memory
from mlxflow.errors import MlxflowError

_keep_freed_memory()
_loaded = _blas.load(os.environ.get("MLXFLOW_DEVICE"))

import mlx.core as mx

DEVICES = ("metal", "cuda", "cpu")


def device() -> str:
    """The kind of device that MLX computes on by default: "metal", "cuda" or "cpu"."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def use_device(name: str | None) -> None:
    """Computes on `name` ("metal", "cuda" or "cpu") from now on; None means the best there is.

    Raises MlxflowError when this machine or this build of MLX does not have it. Networks choose some operations
    by device when they are traced, so call it before making one.
    """
    here = {"metal": mx.metal.is_available(), "cuda": mx.cuda.is_available(), "cpu": True}
    if name is None:
        name = next(kind for kind in DEVICES if here[kind])
    if name not in here:
        raise MlxflowError(f"There is no device '{name}': choose {', '.join(DEVICES[:-1])} or {DEVICES[-1]}.")
    if not here[name]:
        raise MlxflowError(f"The device '{name}' is not available: {_WHY[name]} "
                           f"Here MLX has {' and '.join(kind for kind in DEVICES if here[kind])}.")
    mx.set_default_device(mx.cpu if name == "cpu" else mx.gpu)


_WHY = {
    "metal": "it needs a Mac with Apple silicon.",
    "cuda": "it needs Linux, an NVIDIA GPU with its driver, and `pip install 'mlxflow[cuda12]'` or [cuda13] (if that is "
            "done, mlx-cpu may have overwritten it: `pip install --force-reinstall --no-deps mlx-cuda-12`).",
}


def compiles() -> bool:
    """Whether `mx.compile` fuses operations on the default device, found by tracing a small function.

    It needs g++ at run time on the CPU; without it, or with MLX_DISABLE_COMPILE, functions run op by op.
    """
    import io

    graph = io.StringIO()
    mx.export_to_dot(graph, mx.compile(lambda x: mx.exp(x) + 1)(mx.zeros(4)))
    return "Compiled" in graph.getvalue()


def blas() -> _blas.Blas:
    """The BLAS under MLX's CPU back end: its name, its file, and why it is slow if it is."""
    return _loaded


use_device(os.environ.get("MLXFLOW_DEVICE") or None)
