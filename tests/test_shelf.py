"""Weights by name, in a user folder of the test's own."""

import os
from pathlib import Path

import pytest

from mlxflow import shelf, weights
from mlxflow.errors import MlxflowError
from mlxflow.paths import user_weights_dir
from tests.sampling import tiny


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tiny.weights_folder(tmp_path / "mine")


def test_added_weights_are_found_by_name_and_are_the_same(source, tmp_path):
    folder = shelf.add(source, "cats")
    assert folder == user_weights_dir() / "cats" == tmp_path / "share" / "mlxflow" / "weights" / "cats"
    assert weights.names() == [*sorted(shelf.shipped()), "cats"]
    assert weights.resolve("cats") == folder / weights.MODEL
    ours, theirs = (weights.read_arrays(weights.resolve(path)) for path in ("cats", source))
    assert ours.keys() == theirs.keys() and all((ours[n] == theirs[n]).all().item() for n in ours)
    assert weights.load("cats").words_path == folder / weights.WORDS  # needs nothing else
    assert shelf.add(source) == user_weights_dir() / "mine"


def test_a_name_that_is_taken_is_kept_unless_forced(source, tmp_path):
    shelf.add(source, "cats")
    before = (user_weights_dir() / "cats" / weights.MODEL).read_bytes()
    other = tiny.weights_folder(tmp_path / "other", seed=1)
    with pytest.raises(MlxflowError, match="called 'cats' already"):
        shelf.add(other, "cats")
    assert (user_weights_dir() / "cats" / weights.MODEL).read_bytes() == before
    shelf.add(other, "cats", force=True)
    assert (user_weights_dir() / "cats" / weights.MODEL).read_bytes() != before
    assert [f.name for f in user_weights_dir().iterdir()] == ["cats"]
    with pytest.raises(MlxflowError, match="shipped"):
        shelf.add(source, "emoji", force=True)


def test_a_failed_replacement_leaves_what_was_there(source, monkeypatch):
    shelf.add(source, "cats")
    rename, calls = os.rename, []

    def fails(a, b):
        calls.append(a)
        if Path(b).name == "cats" and len(calls) < 4:
            raise OSError(28, "No space left on device")
        rename(a, b)

    monkeypatch.setattr(shelf.os, "rename", fails)
    with pytest.raises(MlxflowError, match="No space left"):
        shelf.add(source, "cats", force=True)
    assert weights.load("cats") and [f.name for f in user_weights_dir().iterdir()] == ["cats"]


def test_removing(source):
    shelf.add(source, "cats")
    shelf.remove("cats")
    assert "cats" not in weights.names() and not list(user_weights_dir().iterdir())
    for name, says in (("cats", "no weights called 'cats'"), ("emoji", "stays"), ("../mine", "no name for weights")):
        with pytest.raises(MlxflowError, match=says):
            shelf.remove(name)
    assert source.is_dir()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a b", "x" * 65])
def test_names_are_plain(source, name):
    with pytest.raises(MlxflowError, match="no name for weights"):
        shelf.add(source, name)


def test_the_commands_say_what_they_do(source, mlxflow_command, tmp_path):
    home = {"XDG_DATA_HOME": str(tmp_path / "share")}
    assert mlxflow_command("weights", "add", str(source), "cats", **home).stdout.startswith(str(user_weights_dir() / "cats"))
    listed = mlxflow_command("weights", "list", **home).stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [[n, "shipped"] for n in sorted(shelf.shipped())] + [["cats", "added"]]
    assert mlxflow_command("weights", "remove", "cats", **home).returncode == 0
    done = mlxflow_command("weights", "remove", "cats", **home)
    assert (done.returncode, done.stderr) == (2, "mlxflow: There are no weights called 'cats': added are none.\n")
