"""What a run learns from: pictures in memory, their conditions' inputs, fixed validation sets, and how to show results.

`TextDataset` is a data folder with captions, `LabelDataset` pictures with classes or without any. Both give batches
(pictures, *inputs) whose inputs are what the network of that kind takes (see training/objective.py).
"""

from collections.abc import Generator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from mlxflow.data.folder import Record, read_folder
from mlxflow.data.images import load_all, premultiply, unpremultiply
from mlxflow.data.labelled import Labelled, batches, open_labelled, to_rgba, to_unit
from mlxflow.data.rehearsal import mixed
from mlxflow.data.stream import StreamConfig, groups_of, stream
from mlxflow.data.words import WordTable
from mlxflow.errors import MlxflowError
from mlxflow.training.config import TrainConfig
from mlxflow.weights import WORDS

# Pictures of the training set, and of a large validation set, whose loss is watched.
_SEEN, VAL = 64, 128


class Dataset(Protocol):
    """shape: one picture's, as the network sees it. groups: draws in a pass over the data.

    fixed: name ("val", "seen") to (pictures, *inputs) for the validation loss. stamp: what the weights' config says of
    the data. files: what a run folder needs a copy of, by name there.

    It can be pickled, and makes the same batches where it is unpickled.
    """

    shape: tuple[int, int, int]
    groups: int
    fixed: dict[str, tuple[np.ndarray, ...]]
    stamp: dict
    files: dict[str, Path]

    def batches(self, config: TrainConfig, rank: int, size: int, step: int,
                stride: int = 1) -> Generator[tuple[np.ndarray, ...], None, None]:
        """Endless batches (pictures `[b, *shape]` float32, *inputs) of this rank, every `stride`-th from `step` on."""

    def examples(self, config: TrainConfig) -> tuple[tuple[np.ndarray, ...], list[str] | None, int, int]:
        """A sample sheet's inputs, captions (or None), number of pictures and columns."""

    def pictures(self, values: np.ndarray) -> np.ndarray:
        """What a network made, `[N, *shape]`, as uint8 `[N, S, S, 4]`, straight alpha."""


class TextDataset:
    """Pictures with captions, whose inputs are word vectors `[B, L, E]` and their mask `[B, L]`."""

    def __init__(self, folder: Path, words_path: Path, *, shape: tuple[int, int, int], length: int,
                 rehearsal: bool = False):
        self.again = partial(TextDataset, folder.absolute(), words_path.absolute(), shape=shape, length=length,
                             rehearsal=rehearsal)
        read = read_folder(folder)
        self.train, val = read.split("train"), read.split("val")
        if not self.train:
            raise MlxflowError(f"{folder} has no pictures in its `train` split.")
        if shape[2] != 4:
            raise MlxflowError(f"Pictures with captions are RGBA: the model's channels must be 4, not {shape[2]}.")
        self.words = WordTable.load(words_path)
        self.shape, self.files = shape, {WORDS: words_path}
        self.stamp = {"words": self.words.sha256}
        if len(styles := sorted({record.style for record in self.train if record.style})) > 1:
            self.stamp["styles"] = styles
            self.train = [styled(record) for record in self.train]
        self.encode = lru_cache(maxsize=50_000)(lambda caption: self.words.encode(caption, length))
        self.train_images = load_all(self.train, shape[0])
        self.fixed = {}
        if val:
            self.fixed["val"] = self.fixed_set(val, load_all(val, shape[0]))
        # One of each of the first groups in a fixed shuffle.
        groups = groups_of(self.train)
        self.groups = len(groups)
        chosen = [groups[g][0] for g in np.random.default_rng(0).permutation(len(groups))[:_SEEN]]
        self.fixed["seen"] = self.fixed_set([self.train[i] for i in chosen], self.train_images[chosen])
        self.rehearsed: list[Record] = []
        if rehearsal:
            from mlxflow.data.rehearsal import embedded_folder

            self.rehearsed = read_folder(embedded_folder()).split("train")
            self.rehearsed_images = load_all(self.rehearsed, shape[0])

    def __reduce__(self):
        """Unpickled, it opens its folder again: arguments go through a pipe quicker than pictures."""
        return self.again, ()

    def inputs(self, captions) -> tuple[np.ndarray, np.ndarray]:
        encoded = [self.encode(caption) for caption in captions]
        return np.stack([v for v, _ in encoded]), np.stack([m for _, m in encoded])

    def fixed_set(self, records: list[Record], images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Pictures and the inputs of their names."""
        return premultiply(images), *self.inputs(record.text for record in records)

    def batches(self, config, rank, size, step, stride=1):
        settings = StreamConfig(config.batch, config.seed, config.name_share, config.shift, config.scale, config.flip,
                                config.compose, config.variants, rank, size)
        if not self.rehearsed:
            return stream(self.train, self.train_images, self.encode, settings, step, stride)
        old = size * round(config.rehearsal * config.batch / size)
        if not 0 < old < config.batch:
            raise MlxflowError(f"A rehearsal of {config.rehearsal:g} leaves no room for both in batches of {config.batch}.")
        return mixed(stream(self.train, self.train_images, self.encode, replace(settings, batch=config.batch - old),
                            step, stride),
                     stream(self.rehearsed, self.rehearsed_images, self.encode, replace(settings, batch=old),
                            step, stride))

    def examples(self, config):
        count = len(config.prompts)
        return self.inputs(config.prompts), list(config.prompts), count, min(8, count)

    def pictures(self, values):
        return unpremultiply(np.clip(values, -1, 1))


def styled(record: Record) -> Record:
    """The record with captions that name its style too, as `mlxflow edit restyle` asks for it."""
    if not record.style:
        return record
    captions = (record.text, *record.texts)
    return replace(record, texts=(*record.texts, *(f"{caption}, {record.style} style" for caption in captions)))


class LabelDataset:
    """Pictures with classes, whose input is the label `[B]`; without classes there is none."""

    def __init__(self, parts: dict[str, Labelled], classes: int):
        self.train = parts["train"]
        found = len(self.train.names)
        if classes not in (0, found):
            raise MlxflowError(f"The pictures have {found} classes: set the model's classes to {found}, or to 0 to "
                               "train without.")
        self.conditional = classes > 0
        self.shape = self.train.images.shape[1:]
        self.groups = len(self.train)
        self.files = {}
        self.stamp = {"classes": list(self.train.names)} if self.conditional else {}
        self.fixed = {}
        if len(parts["val"]):
            self.fixed["val"] = self.fixed_set(spread(parts["val"], VAL))
        chosen = np.random.default_rng(0).permutation(len(self.train))[:_SEEN]
        self.fixed["seen"] = self.fixed_set(self.train.take(chosen))

    def fixed_set(self, data: Labelled) -> tuple[np.ndarray, ...]:
        return (to_unit(data.images), data.labels) if self.conditional else (to_unit(data.images),)

    def batches(self, config, rank, size, step, stride=1):
        made = batches(self.train, config.batch, config.seed, step, shift=config.shift, flip=config.flip, rank=rank,
                       size=size, stride=stride)
        return made if self.conditional else ((images,) for images, _ in made)

    def examples(self, config):
        if not self.conditional:
            return (), None, 32, 8
        names = list(self.train.names)[:16]
        each = max(1, 64 // len(names)) if len(names) > 8 else 8
        labels = np.repeat(np.arange(len(names), dtype=np.int32), each)
        return (labels,), [names[i] for i in labels], len(labels), each if each > 1 else 8

    def pictures(self, values):
        return to_rgba(values)


def spread(data: Labelled, limit: int) -> Labelled:
    """At most `limit` pictures, spread evenly over the data."""
    return data if len(data) <= limit else data.take(np.linspace(0, len(data) - 1, limit).astype(int))


def open_labels(folder: Path, model: dict, shape: tuple[int, int, int]) -> tuple[LabelDataset, int]:
    """The labelled (or unlabelled) pictures of a folder, and the number of classes that the model gets.

    A model config without `classes` gets those of the folder; 0 trains without them.
    """
    parts = open_labelled(folder, shape[0], shape[2])
    found = len(parts["train"].names)
    classes = model.get("classes", found)
    return LabelDataset(parts, classes), classes
