"""A data folder in memory, ready to train on: pictures decoded, captions encoded on demand, fixed validation sets."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mlxflow.data.folder import Record, read_folder
from mlxflow.data.images import load_all, premultiply
from mlxflow.data.stream import groups_of
from mlxflow.data.words import WordTable
from mlxflow.errors import MlxflowError

# Pictures of the training set whose loss is watched beside `val`.
_SEEN = 64


@dataclass
class Dataset:
    """train_images: uint8 `[N, S, S, 4]`, straight alpha, in the order of `train`.

    fixed: name ("val", "seen") to (images in [-1, 1], word vectors, masks) for the validation loss.
    """

    train: list[Record]
    train_images: np.ndarray
    fixed: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    words: WordTable
    length: int
    size: int

    def __post_init__(self):
        self.groups = len(groups_of(self.train))
        self.encode = lru_cache(maxsize=50_000)(lambda caption: self.words.encode(caption, self.length))


def open_dataset(folder: Path, words_path: Path, *, size: int, length: int) -> Dataset:
    """Read and decode a folder. Raises MlxflowError when it has no training pictures."""
    read = read_folder(folder)
    train, val = read.split("train"), read.split("val")
    if not train:
        raise MlxflowError(f"{folder} has no pictures in its `train` split.")
    words = WordTable.load(words_path)
    images = load_all(train, size)
    fixed = {}
    if val:
        fixed["val"] = fixed_set(val, load_all(val, size), words, length)
    # One of each of the first groups in a fixed shuffle.
    groups = groups_of(train)
    chosen = [groups[g][0] for g in np.random.default_rng(0).permutation(len(groups))[:_SEEN]]
    fixed["seen"] = fixed_set([train[i] for i in chosen], images[chosen], words, length)
    return Dataset(train, images, fixed, words, length, size)


def fixed_set(records: list[Record], images: np.ndarray, words: WordTable, length: int):
    """Images `[N, S, S, 4]` in [-1, 1] and the encoded names of records."""
    encoded = [words.encode(record.text, length) for record in records]
    return premultiply(images), np.stack([v for v, _ in encoded]), np.stack([m for _, m in encoded])
