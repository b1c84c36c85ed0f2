import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlxflow.training.start import start
from tests.data import sets
from tests.training import tiny_classes as tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on three classes, one without classes, and an autoencoder."""
    place = tmp_path_factory.mktemp("place")
    data, plain = tiny.classes(place / "data"), tiny.unlabelled(place / "plain")
    for name, folder, model in (("run", data, tiny.DIT), ("free", plain, tiny.DIT), ("kl", data, tiny.KL)):
        start(place / name, data=folder, flags=tiny.SETTINGS | {"model": model, "steps": 1})
    return place


def mlxflow(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "mlxflow", *map(str, arguments)], cwd=cwd, capture_output=True,
                          text=True, check=False)


def test_one_png_says_what_made_it_and_the_seed_makes_it_again(place, tmp_path):
    for out in ("a.png", "b.png"):
        done = mlxflow("sample", place / "run", "-n", 5, "--label", "RED", "--label", "0", "--seed", 3, "--steps", 2,
                       "-o", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "b.png\n5 pictures, 3 evaluations each\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    made_by = json.loads(Image.open(tmp_path / "a.png").text["mlxflow"])
    assert made_by["labels"] == ["red", "blue", "red", "blue", "red"] and made_by["seed"] == 3
    assert made_by["guidance"] == 3.0
    again = mlxflow("sample", place / "run", "-n", 1, "--guidance", 1, "-o", "a.png", cwd=tmp_path)
    assert again.stdout.startswith("a-2.png\n1 picture,") and "seed " in again.stderr


def test_a_class_grid_has_a_row_for_each_class(place, tmp_path):
    done = mlxflow("sample", place / "run", "--class-grid", "--per-class", 4, "--steps", 1, "-o", "g.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(Image.open(tmp_path / "g.png").text["mlxflow"])["labels"] == [
        name for name in ("blue", "green", "red") for _ in range(4)]


def test_without_classes_the_adaptive_solver_counts_its_calls(place, tmp_path):
    done = mlxflow("sample", place / "free", "-n", 2, "--solver", "dopri5", "--seed", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-3]) > 10 and (tmp_path / "sample.png").exists()


@pytest.mark.parametrize("arguments, says", [
    (["run", "--label", "cat"], "no class 'cat': there are blue, green, red"),
    (["run", "--label", "3"], "no class '3'"),
    (["run", "-n", "0"], "between 1 and 10,000"),
    (["run", "--class-grid", "-n", "4"], "instead of -n and --label"),
    (["run", "--per-class", "4"], "belongs to --class-grid"),
    (["run", "--class-grid", "--per-class", "0"], "--per-class must be 1 or more"),
    (["run", "--seed", "-1"], "seed must be between"),
    (["run", "--steps", "0"], "number of steps"),
    (["run", "-o", "picture.doc"], "must end in .png"),
    (["free", "--label", "red"], "trained without classes"),
    (["free", "--class-grid"], "trained without classes"),
    (["free", "--guidance", "2"], "Guidance needs a class"),
    (["kl"], "is an autoencoder"),
    (["emoji"], "use `mlxflow generate`"),
    (["nowhere"], "no weights at"),
])
def test_bad_input_is_a_sentence_and_exit_2(place, tmp_path, arguments, says):
    name, *rest = arguments
    weights = place / name if (place / name).exists() else name
    done = mlxflow("sample", weights, *rest, cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_generate_sends_models_of_classes_to_sample(place, tmp_path):
    done = mlxflow("generate", "cat", "--weights", place / "run", cwd=tmp_path)
    assert done.returncode == 2 and "mlxflow sample" in done.stderr


def test_data_sets_that_are_not_the_originals_are_refused_but_train(tmp_path):
    folder = sets.mnist(tmp_path / "digits", count=60)
    refused = mlxflow("data", "mnist", "out", "--from", folder, cwd=tmp_path)
    assert refused.returncode == 2 and "checksum is another" in refused.stderr
    model = tiny.DIT | {"image_size": 32, "channels": 1, "patch": 8}
    start(tmp_path / "run", data=folder, flags=tiny.SETTINGS | {"model": model, "steps": 1})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["model"]["classes"] == 10
    assert np.asarray(Image.open(tmp_path / "run" / "samples" / "step-00000000.png")).ndim == 3
