"""Fine-tuning: `train --init WEIGHTS` without a recipe goes on from a whole model with a handful of pictures.

The network and its process are those of the weights; a part of every batch is the embedded emoji again
(`rehearsal`), so that new things are learnt without the old ones being forgotten: `report` asks for both,
before and after.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlxflow.data.folder import read_folder
from mlxflow.data.images import load_all
from mlxflow.data.rehearsal import embedded_folder
from mlxflow.errors import MlxflowError
from mlxflow.evaluation.questions import Question, questions
from mlxflow.evaluation.retrieval import Gallery, ranks, recall
from mlxflow.sampling.pipeline import Pipeline, Request, settings_for
from mlxflow.weights import read_config, read_metadata, resolve

# For minutes, not hours: what is given in a recipe or on the command line wins.
DEFAULTS = {
    "batch": 32,
    "learning_rate": 3e-4,
    "warmup": 20,
    "ema": 0.99,
    "rehearsal": 0.5,
    "name_share": 0.7,
    "log_every": 20,
    "validate_every": 200,
    "sample_every": 200,
    "checkpoint_every": 200,
}
_PROCESS = {"path": "path", "prediction": "prediction", "floor": "floor", "sigma_min": "sigma_min"}
ASKED = 64
_BATCH = 8


def continued(values: dict[str, Any], init: Path, data: Path | None) -> dict[str, Any]:
    """The settings of a run that goes on from `init`; only `values` if that is a part of a model: without a
    config of its own (one beside it says nothing of it)."""
    file = resolve(init)
    if "model" in values or "config" not in read_metadata(file):
        return values
    config = read_config(file)
    if config["process"].get("few_step"):
        raise MlxflowError(
            f"{init} is a few-step model: fine-tune the model that it was made of, and distill that again."
        )
    made = {"model": config["model"]} | {
        ours: config["process"][theirs] for ours, theirs in _PROCESS.items() if theirs in config["process"]
    }
    if config["model"].get("kind") != "text-unet":
        return made | values
    if data is not None and "prompts" not in values:
        names = list(dict.fromkeys(record.text for record in read_folder(data).split("train")))
        made["prompts"] = [
            *names[:8],
            *(
                p
                for p in (
                    "smiling cat",
                    "red heart",
                    "pizza",
                    "rocket",
                    "grinning face",
                    "bicycle",
                    "birthday cake",
                    "robot",
                )
                if p not in names
            ),
        ]
    return made | DEFAULTS | values


def report(
    before: str | Path,
    after: str | Path,
    data: Path,
    asked: int = ASKED,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, dict]:
    """R@1 of two models on names of the embedded emoji ("names") and on the folder's own captions ("own").

    Each is drawn once, by the model's own settings and seed 0, and looked for among all real pictures of
    both. At most `asked` of each. {"names": {"before": recall, "after": recall}, "own": ...}, as in
    evaluation/retrieval.py.
    """
    old, own = questions(read_folder(embedded_folder())), questions(read_folder(data))
    records = [*own.gallery, *old.gallery]
    place = {record.path: i for i, record in enumerate(records)}
    parts = {"names": old.names[:asked], "own": own.names[:asked]}
    found: dict[str, dict] = {name: {} for name in parts}
    total, done = 2 * sum(map(len, parts.values())), 0
    for when, weights in (("before", before), ("after", after)):
        pipeline = Pipeline.load(weights)
        gallery = Gallery(load_all(records, pipeline.model.image_size))
        for name, chosen in parts.items():
            right = [[place[record.path] for record in question.right] for question in chosen]
            drawn = []
            for pixels in _drawn(pipeline, chosen):
                drawn.append(pixels)
                done += 1
                progress(done / total)
            found[name][when] = recall(ranks(gallery.distances(np.stack(drawn)), right), at=(1,))
    return found


def _drawn(pipeline: Pipeline, chosen: list[Question]):
    """The picture of each question, in order."""
    settings = settings_for(pipeline.model.config)
    requests = [Request(question.prompt, 0) for question in chosen]
    for frame in pipeline.stream(requests, settings, batch=_BATCH):
        if frame.t == 1:
            yield frame.pixels


def lines(found: dict[str, dict]) -> list[str]:
    """What a terminal shows of a report."""
    titles = {"names": "the emoji's names", "own": "your pictures"}
    made = []
    for name, of in found.items():
        before, after = of["before"]["R@1"], of["after"]["R@1"]
        made.append(f"R@1 of {titles[name]}: {before['value']:.1f} % before, {after['value']:.1f} % after "
                    f"({after['low']:.1f} to {after['high']:.1f}), of {of['after']['n']} asked")
    return made
