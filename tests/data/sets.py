"""Small data sets in the official formats, made here."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder: Path, count: int = 24, size: int = 28, packed: bool = True) -> Path:
    """Class k is a bright bar k pixels down; count training and count / 2 test pictures."""
    folder.mkdir(parents=True)
    for stem, n in (("train", count), ("t10k", count // 2)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = np.zeros((n, size, size), np.uint8)
        images[np.arange(n), 4 + 2 * labels] = 255
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            content = idx(array)
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def cifar_rows(count: int, seed: int = 0, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 3072), dtype=np.uint8), (np.arange(count) % classes).astype(np.uint8)


def cifar_python(folder: Path, count: int = 20) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        data, labels = cifar_rows(count, seed)
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels.tolist()}, protocol=2))
    return folder


def cifar_binary(folder: Path, count: int = 20) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate(("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")):
        data, labels = cifar_rows(count, seed)
        (folder / name).write_bytes(np.concatenate([labels[:, None], data], axis=1).tobytes())
    return folder
