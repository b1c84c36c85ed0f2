"""CIFAR-10 and CIFAR-100 from the official batches, binary or Python (Krizhevsky 2009, "Learning Multiple Layers
of Features from Tiny Images").

    binary: one byte a label (CIFAR-100: coarse, then fine), then 3072 bytes: red, green, blue planes of 32x32
    Python: a pickled dictionary of `data` uint8 [N, 3072] and `labels` (CIFAR-100: `fine_labels`)

A pickle can run any program, so these are read by an unpickler that makes arrays and plain values only.
"""

import pickle
from pathlib import Path

import numpy as np

from mlxflow.data.labelled import Labelled
from mlxflow.errors import MlxflowError

NUMBERS = 3 * 32 * 32
FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Everything that an array in a pickle is made of, as Python 2, NumPy 1 and NumPy 2 name it.
_ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_pickle(path: str | Path) -> dict:
    """The dictionary of a Python batch, its keys as str; nothing but arrays and plain values is ever made."""
    try:
        with open(path, "rb") as f:
            value = _ArrayUnpickler(f, encoding="bytes").load()
    except FileNotFoundError:
        raise MlxflowError(f"{path}: there is no such file.") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises almost anything
        raise MlxflowError(f"{path} is no CIFAR batch that can be read safely ({error}).") from None
    if not isinstance(value, dict):
        raise MlxflowError(f"{path} is no CIFAR batch: it holds {type(value).__name__}, not a dictionary.")
    return {k.decode("latin-1") if isinstance(k, bytes) else str(k): v for k, v in value.items()}


def read_python_batch(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 `[N, 32, 32, 3]` and labels int32 `[N]` (the fine ones of CIFAR-100)."""
    batch = read_pickle(path)
    data, labels = batch.get("data"), batch.get("labels", batch.get("fine_labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != NUMBERS:
        raise MlxflowError(f"{path} is no CIFAR batch: its `data` is not uint8 of {NUMBERS} a picture.")
    if not isinstance(labels, (list, np.ndarray)) or len(labels) != len(data) or not len(data):
        raise MlxflowError(f"{path} is no CIFAR batch: it has not one label for each of its {len(data):,} pictures.")
    return as_pictures(data), as_labels(labels, path)


def as_pictures(planes: np.ndarray) -> np.ndarray:
    """uint8 `[N, 3072]`, a plane after the other, to `[N, 32, 32, 3]`."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def as_labels(labels, path) -> np.ndarray:
    try:
        labels = np.asarray(labels, np.int32)
        if labels.ndim == 1 and 0 <= labels.min() and labels.max() < 100:
            return labels
    except (TypeError, ValueError, OverflowError):
        pass
    raise MlxflowError(f"{path} is no CIFAR batch: its labels are not numbers from 0 to 99.")


def read_binary_batch(path: str | Path, label_bytes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of a binary batch; CIFAR-100's records begin with two label bytes, the fine one last."""
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise MlxflowError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise MlxflowError(f"{path} cannot be read: {error.strerror}.") from None
    record = label_bytes + NUMBERS
    if not len(content) or len(content) % record:
        raise MlxflowError(f"{path} was cut off or is no CIFAR batch: {len(content):,} bytes are not whole records "
                           f"of {record}.")
    rows = content.reshape(-1, record)
    return as_pictures(rows[:, label_bytes:]), as_labels(rows[:, label_bytes - 1], path)


def find_cifar(folder: Path) -> Path | None:
    """The folder that holds the batches: `folder` itself or one of the published names in it."""
    for place in (folder, *(folder / name for name in FOLDERS)):
        if any((place / name).is_file() for name in ("data_batch_1", "data_batch_1.bin")) or (
                (place / "train.bin").is_file() or ((place / "train").is_file() and (place / "meta").is_file())):
            return place
    return None


def load_cifar(folder: str | Path) -> dict[str, Labelled]:
    """{"train", "test"} of CIFAR-10 or CIFAR-100 in any of the four layouts; as many batches as are there.

    Raises MlxflowError when there is none, the test batch is missing, or one is damaged.
    """
    place = find_cifar(Path(folder))
    if place is None:
        raise MlxflowError(f"{folder} holds no CIFAR batches: `mlxflow data cifar10 DIR` gets them.")
    binary = (place / "data_batch_1.bin").is_file() or (place / "train.bin").is_file()
    hundred = not any((place / name).is_file() for name in ("data_batch_1", "data_batch_1.bin"))
    suffix = ".bin" if binary else ""
    if hundred:
        files = {"train": [place / f"train{suffix}"], "test": [place / f"test{suffix}"]}
    else:
        batches = [place / f"data_batch_{i}{suffix}" for i in range(1, 6)]
        files = {"train": [b for b in batches if b.is_file()], "test": [place / f"test_batch{suffix}"]}
    parts = {}
    for split, paths in files.items():
        read = [read_binary_batch(p, 1 + hundred) if binary else read_python_batch(p) for p in paths]
        parts[split] = [np.concatenate(column) for column in zip(*read)]
    names = class_names(place, binary, hundred)
    for split, (_, labels) in parts.items():
        if labels.max() >= len(names):
            raise MlxflowError(f"{place}: a {split} label is {labels.max()}, but there are {len(names)} classes.")
    return {split: Labelled(images, labels, names) for split, (images, labels) in parts.items()}


def class_names(place: Path, binary: bool, hundred: bool) -> tuple[str, ...]:
    """From the file of names beside the batches; CIFAR-10's are known without it."""
    if binary:
        file = place / ("fine_label_names.txt" if hundred else "batches.meta.txt")
        lines = file.read_text(encoding="utf-8").split() if file.is_file() else []
    else:
        file = place / ("meta" if hundred else "batches.meta")
        meta = read_pickle(file) if file.is_file() else {}
        lines = meta.get("fine_label_names" if hundred else "label_names", [])
        lines = [n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in lines]
    count = 100 if hundred else 10
    if len(lines) == count:
        return tuple(lines)
    return tuple(str(i) for i in range(100)) if hundred else CIFAR10
