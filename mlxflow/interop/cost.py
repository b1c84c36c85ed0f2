"""What a change of weights costs: size, loss and retrieval of the same model before and after.

A model of words is measured on a folder of captioned pictures by its validation loss (training/validation.py) and by
how often a drawn name finds its picture (evaluation/retrieval.py); a model of classes, of nothing or of latents by its
validation loss; an autoencoder by its squared error. Both are asked the same, with the same noise.
"""

from collections.abc import Callable
from pathlib import Path

from mlxflow.runtime import mx

import numpy as np  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from mlxflow import weights  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402

# Of a model that does not draw in fewer: nearly as good as 16 (sampling/pipeline.py), in half the time.
STEPS = 8


def share_quantised(model: weights.Model) -> float:
    """The share of the network's numbers that are 8 or 4 bits."""
    import mlx.nn as nn

    from mlxflow.networks.quantise import dequantised

    total = sum(array.size for array in dequantised(model.network).values())
    packed = sum(layer.weight.size * 32 // layer.bits for layer in model.network.modules()
                 if isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)))
    return packed / total


def computing(model: weights.Model) -> weights.Model:
    """The model with its floats as they are computed with here: float32 on the CPU, where others are slow."""
    if mx.default_device() == mx.Device(mx.cpu):
        arrays = weights.cast(dict(tree_flatten(model.network.parameters())), mx.float32)
        model.network.update(tree_unflatten(list(arrays.items())))
    return model


def measures(model: weights.Model, data: Path, limit: int, work: Path,
             progress: Callable[[str, float], None] = lambda what, done: None) -> dict[str, str]:
    """What there is to say of a model on (at most `limit`) pictures of a data folder, by name.

    work: a folder for drawn pictures. progress(what, share that is done).
    Raises MlxflowError for a limit below 1 or a folder that does not suit.
    """
    if limit < 1:
        raise MlxflowError(f"--limit must be 1 or more, not {limit}.")
    model = computing(model)
    if model.network.kind == "text-unet":
        return _of_words(model, data, limit, work, progress)
    name, part = _fixed(model, data, limit)
    if hasattr(model.network, "latents"):
        from mlxflow.training.reconstruction import reconstruction_scores

        scores = reconstruction_scores(model.network, part[0])
        return {f"reconstruction, {len(part[0])} of {name}": f"{scores['psnr']:.3f} dB"}
    from mlxflow.training.validation import validation_loss

    loss = validation_loss(model.network, model.config["process"], *part)["loss"]
    return {f"loss, {len(part[0])} of {name}": f"{loss:.5f}"}


def _of_words(model: weights.Model, data: Path, limit: int, work: Path,
              progress: Callable[[str, float], None]) -> dict[str, str]:
    from mlxflow.data.images import load_all, premultiply
    from mlxflow.evaluation.evaluate import Evaluation
    from mlxflow.sampling.pipeline import Pipeline, settings_for
    from mlxflow.training.validation import validation_loss

    pipeline = Pipeline(model)
    settings = settings_for(model.config, None if "few_step" in model.config["process"] else STEPS)
    evaluation = Evaluation(pipeline, data, work, settings, limit=limit, progress=progress)
    name = "val" if evaluation.folder.split("val") else "train"
    records = evaluation.folder.split(name)
    records = [records[i] for i in np.linspace(0, len(records) - 1, min(limit, len(records))).astype(int)]
    vectors, mask = pipeline.words.encode_batch([record.text for record in records], pipeline.length)
    images = premultiply(load_all(records, model.image_size))
    loss = validation_loss(model.network, model.config["process"], images, vectors, mask)["loss"]
    found = evaluation.names()
    rows = {f"loss, {len(records)} of {name}": f"{loss:.5f}"}
    for key in ("R@1", "R@5"):
        of = found[key]
        rows[f"{key}, {found['n']} names"] = f"{of['value']:.1f} % ({of['low']:.1f} to {of['high']:.1f})"
    return rows


def _fixed(model: weights.Model, data: Path, limit: int) -> tuple[str, tuple[np.ndarray, ...]]:
    """The name of a fixed set of a folder of classes, and of it (pictures or latents, *inputs)."""
    from mlxflow.training.dataset import open_labels
    from mlxflow.training.latents import LatentDataset

    network = model.network
    if model.autoencoder_path is not None:
        dataset = LatentDataset(data, model.autoencoder_path, network.config.classes)
    else:
        dataset, _ = open_labels(data, {"classes": getattr(network.config, "classes", 0)}, network.shape)
    name = next(iter(dataset.fixed))
    return {"seen": "train"}.get(name, name), tuple(array[:limit] for array in dataset.fixed[name])
