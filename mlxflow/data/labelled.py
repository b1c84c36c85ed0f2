"""Pictures with classes in memory, from any of the forms in which people have them.

`open_labelled` looks at a folder and knows MNIST's IDX files, CIFAR's batches, and `DIR/class_name/*.png` (or
metadata with `label`). All pixels are uint8 here; `to_unit` brings them to the float32 [-1, 1] that networks see.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlxflow.errors import MlxflowError

_ORDER, _MOVE = 3, 4


@dataclass(frozen=True)
class Labelled:
    """images uint8 `[N, H, W, C]` (C is 1 grey, 3 RGB, or 4 RGBA of straight alpha); labels int32 `[N]`, numbers
    of `names`."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices) -> "Labelled":
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def open_labelled(folder: str | Path, size: int, channels: int) -> dict[str, Labelled]:
    """{"train", "val"} of the pictures in `folder`, size x size with that many channels.

    MNIST's 28x28 are padded with black to a larger size; a folder's pictures are resized. `val` is the official
    test set, or what the folder marks so (may be empty). Raises MlxflowError with a sentence for what does not fit.
    """
    from mlxflow.data.cifar import find_cifar, load_cifar
    from mlxflow.data.digits import is_mnist, load_mnist

    folder = Path(folder)
    if folder.is_dir() and is_mnist(folder):
        parts = load_mnist(folder)
    elif folder.is_dir() and find_cifar(folder):
        parts = load_cifar(folder)
    else:
        return from_folder(folder, size, channels)
    return {name: fitted(parts[split], size, channels, folder) for name, split in (("train", "train"), ("val", "test"))}


def fitted(data: Labelled, size: int, channels: int, folder: Path) -> Labelled:
    """Padded with black to size x size; grey becomes RGB where asked. Never cut or resized."""
    height, width, has = data.images.shape[1:]
    if height != width or size < height or (size > height and has != 1):
        raise MlxflowError(f"The pictures in {folder} are {height}x{width}: set the model's image_size to {height}.")
    if channels != has and not (has == 1 and channels == 3):
        raise MlxflowError(f"The pictures in {folder} have {has} channel{'s' if has > 1 else ''}: "
                           f"set the model's channels to {has}.")
    images = data.images
    if size > height:
        before = (size - height) // 2
        edges = (before, size - height - before)
        images = np.pad(images, ((0, 0), edges, edges, (0, 0)))
    if channels != has:
        images = np.repeat(images, channels, axis=-1)
    return replace(data, images=images)


def from_folder(folder: Path, size: int, channels: int) -> dict[str, Labelled]:
    """A folder of pictures whose class is the sub-folder (or `label` in its metadata)."""
    from mlxflow.data.folder import read_folder
    from mlxflow.data.images import load_all

    read = read_folder(folder)
    names = tuple(read.labels)
    if channels not in (1, 3, 4):
        raise MlxflowError(f"Pictures have 1, 3 or 4 channels: the model's channels cannot be {channels}.")
    without = [record.file_name for record in read.records if record.label is None]
    if names and without:
        raise MlxflowError(f"{folder}: {without[0]} has no class, others have: put it in the sub-folder of its class.")
    numbers = {name: i for i, name in enumerate(names)}
    parts = {}
    for split in ("train", "val"):
        records = read.split(split)
        images = as_channels(load_all(records, size), channels)
        labels = np.array([numbers.get(record.label, 0) for record in records], np.int32)
        parts[split] = Labelled(images, labels, names)
    if not len(parts["train"]):
        raise MlxflowError(f"{folder} has no pictures in its `train` split.")
    return parts


def as_channels(rgba: np.ndarray, channels: int) -> np.ndarray:
    """uint8 RGBA `[N, S, S, 4]` as it is, or over white as RGB or (Rec. 601) grey."""
    if channels == 4:
        return rgba
    alpha = rgba[..., 3:].astype(np.float32) / 255
    rgb = rgba[..., :3] * alpha + 255 * (1 - alpha)
    if channels == 1:
        rgb = rgb @ np.array([[0.299], [0.587], [0.114]], np.float32)
    return np.rint(rgb).astype(np.uint8)


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[..., C]` to float32 in [-1, 1]; RGBA is premultiplied."""
    if pixels.shape[-1] == 4:
        from mlxflow.data.images import premultiply

        return premultiply(pixels)
    return pixels.astype(np.float32) * np.float32(2 / 255) - 1


def to_rgba(values: np.ndarray) -> np.ndarray:
    """Networks' float `[N, H, W, C]`, about [-1, 1], to uint8 RGBA `[N, H, W, 4]`, straight alpha, for every C."""
    if values.shape[-1] == 4:
        from mlxflow.data.images import unpremultiply

        return unpremultiply(values)
    pixels = np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    return np.concatenate([pixels, np.full((*pixels.shape[:-1], 1), 255, np.uint8)], axis=-1)


def moved(images: np.ndarray, generator: np.random.Generator, shift: int, flip: float) -> np.ndarray:
    """uint8 `[B, H, W, C]`, each moved by up to `shift` pixels either way (edges repeat) and mirrored with chance
    `flip`."""
    if flip:
        mirror = generator.random(len(images)) < flip
        images = np.where(mirror[:, None, None, None], images[:, :, ::-1], images)
    if shift:
        height, width = images.shape[1:3]
        dy, dx = generator.integers(-shift, shift + 1, size=(2, len(images)))
        rows = np.clip(np.arange(height)[None] - dy[:, None], 0, height - 1)
        columns = np.clip(np.arange(width)[None] - dx[:, None], 0, width - 1)
        images = images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return images


def indices(count: int, batch: int, seed: int, step: int, rank: int = 0, size: int = 1,
            stride: int = 1) -> Iterator[np.ndarray]:
    """Endless picture numbers int64 `[batch / size]` of this rank, every `stride`-th step from `step` on.

    A pass is a permutation made from (seed, pass), or several in a row where the data are fewer than a batch; the
    partial batch at its end is left out. The step alone is the position.
    """
    rounds = -(-batch // count)
    steps = rounds * count // batch
    share = batch // size
    while True:
        number, done = divmod(step, steps)
        generator = np.random.default_rng([seed, _ORDER, number])
        order = np.concatenate([generator.permutation(count) for _ in range(rounds)])
        for i in range(done, steps, stride):
            first = i * batch + rank * share
            yield order[first:first + share]
            step += stride


def batches(data: Labelled, batch: int, seed: int, step: int = 0, *, shift: int = 0, flip: float = 0.0,
            rank: int = 0, size: int = 1, stride: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless (images float32 `[b, H, W, C]` in [-1, 1], labels int32 `[b]`), every `stride`-th from `step` on, by
    `indices` and `moved`."""
    for chosen in indices(len(data), batch, seed, step, rank, size, stride):
        images = data.images[chosen]
        if shift or flip:
            images = moved(images, np.random.default_rng([seed, _MOVE, step, rank]), shift, flip)
        yield to_unit(images), data.labels[chosen]
        step += stride
