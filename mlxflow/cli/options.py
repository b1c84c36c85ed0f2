"""Options that several commands share, as annotated types."""

import os
from typing import Annotated, Literal

import typer


def _use_device(name: str | None) -> str | None:
    if name is not None:
        # Set before the runtime is imported: on Linux the choice decides which BLAS it loads.
        os.environ["MLXFLOW_DEVICE"] = name
        from mlxflow import runtime

        runtime.use_device(name)
    return name


# In a command: `device: DeviceOption = None`. The command need not look at it: parsing it has set the device.
DeviceOption = Annotated[
    Literal["metal", "cuda", "cpu"] | None,
    typer.Option("--device", callback=_use_device, help="Where to compute; else MLXFLOW_DEVICE, else MLX's best."),
]
