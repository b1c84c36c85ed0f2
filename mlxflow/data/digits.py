"""MNIST and Fashion-MNIST: IDX files, as they are published or unpacked.

An IDX file is two zero bytes, one for the type (8: uint8), one for the number of dimensions, the dimensions as
big-endian 32-bit numbers, then the values (LeCun, Cortes & Burges, "The MNIST database of handwritten digits").
"""

import gzip
import struct
from pathlib import Path

import numpy as np

from mlxflow.data.labelled import Labelled
from mlxflow.errors import MlxflowError

# What torch, Keras and the mirrors call the files; the dot is older.
FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}
CLASSES = "classes.txt"
# 60,000 pictures are 47 MB; a file that claims far more is damaged or hostile.
MOST_BYTES = 2_000_000_000


def idx_content(path: Path) -> bytes:
    """The bytes of an IDX file, unpacked if it is gzip (by its content, not its name)."""
    try:
        with open(path, "rb") as f:
            packed = f.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else open(path, "rb") as f:
            content = f.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise MlxflowError(f"{path}: there is no such file.") from None
    except (OSError, EOFError, gzip.zlib.error) as error:
        raise MlxflowError(f"{path} is damaged or was cut off ({error}): get it again.") from None
    if len(content) > MOST_BYTES:
        raise MlxflowError(f"{path} holds more than {MOST_BYTES:,} bytes: it is no MNIST file.")
    return content


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in an IDX file, `.gz` or not. Raises MlxflowError for any other or damaged file."""
    path = Path(path)
    content = idx_content(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise MlxflowError(f"{path} is not an IDX file.")
    kind, dimensions = content[2], content[3]
    if kind != 8 or not 1 <= dimensions <= 4:
        raise MlxflowError(f"{path} holds values of IDX type {kind} in {dimensions} dimensions: only bytes (8) "
                           "in 1 to 4 dimensions are read.")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise MlxflowError(f"{path} was cut off within its header: get it again.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    wanted = int(np.prod(shape, dtype=object))
    if len(content) - start != wanted:
        raise MlxflowError(f"{path} holds {len(content) - start:,} values instead of {wanted:,}: get it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def find_idx(folder: Path, name: str) -> Path | None:
    """The file of that published name, with or without .gz, with a dash or a dot before `idx`."""
    for stem in (name, name.replace("-idx", ".idx")):
        for file in (folder / stem, folder / f"{stem}.gz"):
            if file.is_file():
                return file
    return None


def is_mnist(folder: Path) -> bool:
    return find_idx(folder, FILES["train"][0]) is not None


def load_mnist(folder: str | Path) -> dict[str, Labelled]:
    """{"train", "test"} of a folder with the four IDX files: pictures uint8 `[N, 28, 28, 1]`.

    Classes are called 0 to 9, or as the lines of a `classes.txt` beside the files say.
    Raises MlxflowError when a file is missing or damaged, or pictures and labels do not belong together.
    """
    folder = Path(folder)
    parts = {}
    for split, (images_name, labels_name) in FILES.items():
        files = [find_idx(folder, name) for name in (images_name, labels_name)]
        for file, name in zip(files, (images_name, labels_name)):
            if file is None:
                raise MlxflowError(f"{folder} lacks {name}(.gz): MNIST has four files, "
                                   "`mlxflow data mnist DIR` gets them.")
        images, labels = map(read_idx, files)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise MlxflowError(f"{files[0]} and {files[1]} do not belong together: their shapes are "
                               f"{images.shape} and {labels.shape}.")
        parts[split] = (images[..., None], labels)
    names = class_names(folder, int(max(labels.max() for _, labels in parts.values())) + 1)
    return {split: Labelled(images, labels.astype(np.int32), names) for split, (images, labels) in parts.items()}


def class_names(folder: Path, count: int) -> tuple[str, ...]:
    file = folder / CLASSES
    if not file.is_file():
        return tuple(str(i) for i in range(max(10, count)))
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) < count or len(set(names)) != len(names):
        raise MlxflowError(f"{file} must name {count} different classes, one a line; it names {len(set(names))}.")
    return names
