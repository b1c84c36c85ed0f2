"""`mlxflow inspect RUN`: does the model look at its inputs?"""

from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption

PROMPTS = ["grinning face", "smiling cat", "red heart", "pizza", "rocket", "squirrel", "bicycle", "palm tree"]


def inspect(
    weights: Annotated[
        str, typer.Argument(help="A run, a checkpoint, a weights folder or a .safetensors file.")
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="Prompts to tell apart; give it twice or more.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The noise follows from it.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Does the model use the time, the noisy picture and the prompt, or has it gone blind to one?

    Each input is swapped between pictures and the output's relative change is measured: about 0 is blind.
    Exits with 1 if the model is blind to any of them.

    Example: mlxflow inspect runs/emoji
    """
    from mlxflow.evaluation.inspect import inspect_weights

    found = inspect_weights(weights, prompt or PROMPTS, seed)
    for name, change in found._asdict().items():
        verdict = "BLIND: it makes no difference" if name in found.blind_to else "used"
        print(f"{name:<10} {change:8.4f}  {verdict}")
    if found.blind_to:
        raise typer.Exit(1)
