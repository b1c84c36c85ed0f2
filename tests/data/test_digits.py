import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.data.digits import load_mnist, read_idx
from mlxflow.errors import MlxflowError
from tests.data import sets


@pytest.mark.parametrize("packed", [True, False])
def test_an_array_comes_back_as_it_was_written(tmp_path, packed):
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    # Told by the content, not by the name.
    (tmp_path / "x").write_bytes(gzip.compress(sets.idx(array)) if packed else sets.idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), array)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_whether_packed_or_not(tmp_path, packed):
    parts = load_mnist(sets.mnist(tmp_path / "m", packed=packed))
    assert parts["train"].images.shape == (24, 28, 28, 1) and parts["test"].images.shape == (12, 28, 28, 1)
    assert parts["train"].labels.tolist() == [i % 10 for i in range(24)]
    assert parts["train"].names == tuple("0123456789")
    (tmp_path / "m" / "classes.txt").write_text("\n".join("abcdefghij"))
    assert load_mnist(tmp_path / "m")["train"].names == tuple("abcdefghij")


@pytest.mark.parametrize("damage, says", [
    (lambda c: c[:-1], "instead of"), (lambda c: c + b"x", "instead of"), (lambda c: c[:6], "within its header"),
    (lambda c: b"", "not an IDX"), (lambda c: b"\x89PNG" + c, "not an IDX"), (lambda c: b"\0\0\x0d" + c[3:], "type 13"),
    (lambda c: gzip.compress(c)[:-20], "cut off"), (lambda c: b"\x1f\x8b" + c, "damaged"),
    (lambda c: c[:4] + b"\xff" * 12 + c[16:], "instead of"),
])
def test_damage_is_a_sentence(tmp_path, damage, says):
    (tmp_path / "x").write_bytes(damage(sets.idx(np.zeros((2, 3, 4), np.uint8))))
    with pytest.raises(MlxflowError, match=says):
        read_idx(tmp_path / "x")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_whatever_end_in_anything_but_an_array_or_a_sentence(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("x") / "x"
    file.write_bytes(content)
    try:
        assert read_idx(file).dtype == np.uint8
    except MlxflowError as error:
        assert "\n" not in str(error)


def test_files_that_are_missing_or_do_not_belong_together_are_named(tmp_path):
    folder = sets.mnist(tmp_path / "m", packed=False)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(sets.idx(np.zeros(3, np.uint8)))
    with pytest.raises(MlxflowError, match="t10k-labels-idx1-ubyte do not belong together"):
        load_mnist(folder)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MlxflowError, match="lacks t10k-labels-idx1-ubyte"):
        load_mnist(folder)
