import os
import pickle

import numpy as np
import pytest

from mlxflow.data.cifar import CIFAR10, load_cifar, read_binary_batch, read_python_batch
from mlxflow.errors import MlxflowError
from tests.data import sets


def test_both_layouts_give_the_same_pictures(tmp_path):
    python = load_cifar(sets.cifar_python(tmp_path / "a" / "cifar-10-batches-py").parent)
    binary = load_cifar(sets.cifar_binary(tmp_path / "b"))
    for split in ("train", "test"):
        np.testing.assert_array_equal(python[split].images, binary[split].images)
        np.testing.assert_array_equal(python[split].labels, binary[split].labels)
    assert python["train"].images.shape == (40, 32, 32, 3) and python["train"].names == CIFAR10
    data, _ = sets.cifar_rows(20)
    # The red plane comes first, row by row.
    np.testing.assert_array_equal(python["train"].images[3, :, :, 0].reshape(-1), data[3, :1024])


def test_cifar100_has_fine_labels_in_both_layouts(tmp_path):
    data, fine = sets.cifar_rows(200, classes=100)
    coarse = (fine // 5).astype(np.uint8)
    for name in ("train", "test"):
        (tmp_path / f"{name}.bin").write_bytes(np.concatenate([coarse[:, None], fine[:, None], data], 1).tobytes())
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"thing{i}" for i in range(100)))
    binary = load_cifar(tmp_path)["train"]
    assert binary.labels.tolist() == fine.tolist() and binary.names[7] == "thing7"
    batch = {b"data": data, b"coarse_labels": coarse.tolist(), b"fine_labels": fine.tolist()}
    (tmp_path / "py").mkdir()
    for name in ("train", "test"):
        (tmp_path / "py" / name).write_bytes(pickle.dumps(batch, protocol=2))
    (tmp_path / "py" / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"thing%d" % i for i in range(100)]}))
    python = load_cifar(tmp_path / "py")["train"]
    np.testing.assert_array_equal(python.images, binary.images)
    assert python.labels.tolist() == fine.tolist() and python.names == binary.names


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Bomb(), b"labels": [1]}))
    with pytest.raises(MlxflowError, match="read safely .*system"):
        read_python_batch(tmp_path / "data_batch_1")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("batch", [
    {}, [1], {b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, {b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]},
    {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]},
    {b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}, {b"data": np.zeros((1, 3072), np.uint8), b"labels": [2**40]},
])
def test_what_is_no_batch_is_a_sentence(tmp_path, batch):
    (tmp_path / "b").write_bytes(pickle.dumps(batch))
    with pytest.raises(MlxflowError, match="no CIFAR batch"):
        read_python_batch(tmp_path / "b")


def test_cut_off_batches_are_sentences(tmp_path):
    folder = sets.cifar_binary(tmp_path / "b")
    content = (folder / "data_batch_1.bin").read_bytes()
    (folder / "data_batch_1.bin").write_bytes(content[:-1])
    with pytest.raises(MlxflowError, match="cut off"):
        read_binary_batch(folder / "data_batch_1.bin")
    folder = sets.cifar_python(tmp_path / "p")
    (folder / "data_batch_1").write_bytes((folder / "data_batch_1").read_bytes()[:-100])
    with pytest.raises(MlxflowError, match="data_batch_1"):
        load_cifar(folder)
    (folder / "test_batch").unlink()
    (folder / "data_batch_1").unlink()
    with pytest.raises(MlxflowError):
        load_cifar(folder)
    with pytest.raises(MlxflowError, match="mlxflow data cifar10"):
        load_cifar(tmp_path)
