"""Options that several commands share, as annotated types; and the headings under which `--help` lists
options.
"""

import os
from typing import Annotated, Literal

import typer

WORDS, CHOOSING, DRAWING, OUTPUT, TERMINAL = "Words", "Choosing", "Drawing", "Output", "Terminal"


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

# `weights: WeightsOption = None`: None is the shipped model.
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", show_default=False, rich_help_panel=DRAWING,
                 help="Weights by name (`mlxflow weights list`), a folder, a run, or a .safetensors file. "
                      "[default: emoji]"),
]

ShowOption = Annotated[
    bool | None,
    typer.Option("--show/--no-show", show_default=False, rich_help_panel=TERMINAL,
                 help="Whether the terminal shows the pictures while they are drawn. [default: if it is one]"),
]
