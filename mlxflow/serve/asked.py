"""What a request may ask of the model that is served: settings within limits; and what its pictures' files say."""

from typing import Any

from mlxflow.flow import fewstep
from mlxflow.sampling import resize
from mlxflow.sampling.pipeline import Request, Settings, settings_for
from mlxflow.sampling.recipe import described
from mlxflow.serve.requests import number, whole

MAX_STEPS, MAX_GUIDANCE = 64, 10.0


def has_guidance(config: dict) -> bool:
    """Whether guidance can be chosen: few-step models have theirs built in."""
    return not config["process"].get("few_step")


def max_steps(config: dict) -> int:
    return MAX_STEPS if has_guidance(config) else fewstep.FINEST


def settings_of(body: dict[str, Any], config: dict, usual_steps: int | None = None) -> Settings:
    """The settings that a request's "steps" and "guidance" make of a model's own. Raises MlxflowError.

    usual_steps: where the request has none, if not the model's own number.
    """
    steps = whole(body, "steps", usual_steps, 1, max_steps(config))
    return settings_for(config, steps, guidance=number(body, "guidance", None, 0, MAX_GUIDANCE))


def draft_of(settings: Settings, config: dict, steps: int) -> Settings:
    """Settings for a first look: few steps, and one call of the network in each."""
    solver = "euler" if has_guidance(config) else None
    return settings_for(config, min(steps, settings.steps), solver, settings.guidance)


def made_by(request: Request, settings: Settings, weights: str, **file) -> dict[str, Any]:
    """What a picture's file says of how it was made, just as `mlxflow generate` writes it, which can repeat it.

    weights: SHA-256. file: its background, size and for, where it has them.
    """
    if file.get("size") not in resize.SIZES:
        file.pop("size", None)
    file = {name: value for name, value in file.items() if value}
    return described(request) | settings.described() | file | {"weights": weights}
