"""Does a trained model use its inputs? `flow.checks` on a run or a weights folder, without any data."""

from pathlib import Path

from mlxflow.data.words import WordTable
from mlxflow.errors import MlxflowError
from mlxflow.flow.checks import Sensitivity, sensitivity
from mlxflow.runtime import mx
from mlxflow.weights import Model, load, path_of


def inspect_weights(path: str | Path, prompts: list[str], seed: int = 0) -> Sensitivity:
    """Load the model at `path` (a run, a weights folder, a file) and measure what it sees. See
    `inspect_model`."""
    return inspect_model(load(path), prompts, seed)


def inputs_of(model: Model, prompts: list[str]) -> tuple[mx.array, ...]:
    """The condition's inputs for as many samples as there are prompts: their words, or classes in turn."""
    if model.words_path is not None:
        words = WordTable.load(model.words_path)
        return tuple(map(mx.array, words.encode_batch(prompts, model.network.text.config.length)))
    classes = len(model.config.get("classes", []))
    if classes < 2 or not hasattr(model.network, "predict"):
        raise MlxflowError(f"{model.source} is told neither words nor classes: there is nothing to be blind to.")
    return (mx.arange(len(prompts)) % classes,)


def inspect_model(model: Model, prompts: list[str], seed: int = 0) -> Sensitivity:
    """How much the network's output depends on t, on x and on the prompt, over a batch of `prompts` (2 or
    more).

    The states are what the model itself heads for: noise, mixed with its own first guess of each picture, at
    times spread over 0.1 to 0.9.
    """
    if len(set(prompts)) < 2:
        raise MlxflowError("Give two or more different prompts: a blind model is one that treats them alike.")
    network, process, size = model.network, model.config["process"], len(prompts)
    condition = network.encode(*inputs_of(model, prompts))
    path = path_of(process)
    noise = mx.random.normal((size, *network.shape), key=mx.random.key(seed))
    start = mx.zeros((size,))
    output = network.predict(path.start(noise), start, condition)
    guess = path.convert(path.start(noise), output, start, process["prediction"], "data", process["floor"])
    t = mx.linspace(0.1, 0.9, size)
    return sensitivity(network.predict, path.sample(noise, mx.clip(guess, -1, 1), t), t, condition)
