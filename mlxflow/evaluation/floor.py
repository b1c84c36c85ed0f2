"""The least loss that any network could reach on a data folder, by time: the score of a perfect memory."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlxflow.data.folder import Record, read_folder
from mlxflow.data.images import load_all, premultiply
from mlxflow.data.stream import groups_of
from mlxflow.errors import MlxflowError
from mlxflow.flow import oracle
from mlxflow.flow.losses import CAP
from mlxflow.flow.paths import path_by_name
from mlxflow.runtime import mx

# Numbers of all pictures together that an ordinary laptop holds beside its other work (2 GB in float32).
MOST_NUMBERS = 500_000_000


class FolderFloor(NamedTuple):
    """`floor` by bin of t without a prompt, the number of pictures, and the same told each picture's
    caption."""

    images: int
    without_prompt: oracle.Floor
    with_prompt: oracle.Floor


def draw_weights(records: list[Record]) -> np.ndarray:
    """How often training draws each record: groups (a base emoji and its variants) equally, float32 [N]."""
    weights = np.zeros(len(records), np.float32)
    groups = groups_of(records)
    for group in groups:
        weights[group] = 1 / (len(groups) * len(group))
    return weights


def folder_floor(
    folder: Path,
    *,
    split: str = "train",
    size: int = 64,
    path: str = "condot",
    prediction: str = "data",
    cap: float | None = CAP,
    bins: int = 10,
    count: int = 64,
    seed: int = 0,
) -> FolderFloor:
    """The floor of the training loss on the pictures of `split`, drawn as training draws them.

    "With prompt" is the floor for a network told the exact caption: what is left where captions are shared.
    Raises MlxflowError if the folder has no such pictures or they do not fit in memory at this size.
    """
    records = read_folder(folder).split(split)
    if not records:
        raise MlxflowError(f"{folder} has no pictures in the split '{split}'.")
    if len(records) * size * size * 4 > MOST_NUMBERS:
        raise MlxflowError(
            f"{len(records)} pictures of {size}x{size} are too many to hold at once: use a smaller --size."
        )
    images = mx.array(premultiply(load_all(records, size)))
    captions = {text: i for i, text in enumerate(sorted({record.text for record in records}))}
    groups = mx.array([captions[record.text] for record in records])
    exact = oracle.Oracle(images, path_by_name(path), mx.array(draw_weights(records)))
    key = mx.random.key(seed)
    settings = {"prediction": prediction, "cap": cap, "bins": bins, "count": count}
    # A caption that only one picture has names the picture: nothing is left to guess.
    told = (
        oracle.floor(exact, key, groups=groups, **settings)
        if len(captions) < len(records)
        else oracle.Floor([0.0] * bins, [0.0] * bins, [1.0] * bins)
    )
    return FolderFloor(len(records), oracle.floor(exact, key, **settings), told)
