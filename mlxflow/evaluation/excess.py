"""Validation loss by time bin, and what of it a better network could still gain: its excess over the floor.

The network and the oracle (flow/oracle.py: the exact flow of all pictures of the folder) see the same noisy pictures
at the same times (training/validation.py), with the prompt and without. Without it even a perfect memory cannot know
which picture a noisy one was; told a caption that only one picture has, it knows, and its floor is 0.
"""

from collections.abc import Callable

import numpy as np

from mlxflow.data.folder import Record
from mlxflow.data.images import load_all, premultiply
from mlxflow.evaluation.floor import MOST_NUMBERS, draw_weights
from mlxflow.flow.oracle import Oracle
from mlxflow.runtime import mx
from mlxflow.sampling.pipeline import Pipeline
from mlxflow.training.validation import BINS, validation_loss
from mlxflow.weights import path_of

# Pictures of each split: enough for three digits, since noise and times are fixed.
MOST = 64
BATCH = 32


def excess(pipeline: Pipeline, records: list[Record], limit: int | None = None,
           progress: Callable[[float], None] = lambda done: None) -> dict:
    """{"val": {...}, "train": {...}}, each {"n", "prompt", "no_prompt"}, each of these {"loss", "bins", "floor",
    "floor_bins", "excess"}; "val" only if the folder has it.

    At most MOST (or `limit`) pictures of each, spread over the folder, asked for by their main caption. The floor
    and the excess are left out where all pictures together are too many to hold.
    """
    model = pipeline.model
    process = model.config["process"]
    records = [record for record in records if record.split != "holdout"]
    images = premultiply(load_all(records, model.image_size))
    numbers = {text: i for i, text in enumerate(sorted({record.text for record in records}))}
    captions = np.array([numbers[record.text] for record in records])
    oracle = None
    if images.size <= MOST_NUMBERS:
        oracle = Oracle(mx.array(images), path_of(process), mx.array(draw_weights(records)))

    def network(x, t, vectors, mask):
        return model.network.predict(x, t, model.network.encode(vectors, mask))

    def memory(x, t, caption, told):
        same = caption == mx.array(captions)[None]
        return oracle.data(x, t, mx.logical_or(same, mx.logical_not(told)))

    found = {}
    jobs = [(split, told) for split in ("val", "train") for told in (True, False)
            if any(record.split == split for record in records)]
    for done, (split, told) in enumerate(jobs):
        progress(done / len(jobs))
        own = [i for i, record in enumerate(records) if record.split == split]
        take = np.array(own)[np.linspace(0, len(own) - 1, min(len(own), MOST, limit or MOST)).astype(int)]
        vectors, mask = pipeline.words.encode_batch([records[i].text for i in take], pipeline.length)
        loss = validation_loss(network, process, images[take], vectors, mask & told, batch=BATCH)
        part = {"loss": round(loss["loss"], 5), "bins": [round(value, 5) for value in loss["bins"]]}
        if oracle is not None:
            if told and np.all(np.bincount(captions)[captions[take]] == 1):
                floor = {"loss": 0.0, "bins": [0.0] * BINS}  # each caption names its picture
            else:
                exact = {**process, "prediction": "data"}
                floor = validation_loss(memory, exact, images[take], captions[take][:, None],
                                        np.full((len(take), 1), told), batch=BATCH)
            part |= {"floor": round(floor["loss"], 5), "floor_bins": [round(value, 5) for value in floor["bins"]],
                     "excess": round(loss["loss"] - floor["loss"], 5)}
        found.setdefault(split, {"n": len(take)})["prompt" if told else "no_prompt"] = part
    progress(1.0)
    return found
