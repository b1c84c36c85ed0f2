"""The shipped digits: what is asked for is what is drawn."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.classes import ClassSampler
from mlxflow.sampling.pipeline import Settings

EACH = 6


@pytest.fixture(scope="module")
def digits():
    return ClassSampler.load("mnist")


def drawn(sampler, seed):
    """Digits `[10, EACH, 64]`, averaged to 8x8."""
    labels = np.repeat(np.arange(10), EACH).tolist()
    parts = [d.values for d in sampler.draw(labels, len(labels), seed, Settings(6, "heun", 3.0), batch=60)]
    return np.concatenate(parts).reshape(10, EACH, 8, 4, 8, 4).mean((3, 5)).reshape(10, EACH, 64)


def test_a_digit_is_nearest_to_the_mean_of_others_of_its_class(digits):
    assert digits.names == [str(i) for i in range(10)]
    means = drawn(digits, 0).mean(axis=1)
    others = drawn(digits, 1000)
    nearest = np.square(others[:, :, None] - means).sum(-1).argmin(-1)
    # By chance 10 %.
    assert (nearest == np.arange(10)[:, None]).mean() > 0.9
    # And they are not one picture: within a class they differ.
    assert np.square(others - others.mean(axis=1, keepdims=True)).mean() > 0.005


def test_the_shipped_digits_are_drawn_by_their_name_from_anywhere(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mlxflow", "sample", "mnist", "--label", "7", "-n", "3", "--steps", "2",
                           "--seed", "5", "-o", "sevens.png"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(Image.open(tmp_path / "sevens.png").text["mlxflow"])["labels"] == ["7", "7", "7"]


def test_what_digits_cannot_do_is_said(digits):
    with pytest.raises(MlxflowError, match="no class 'cat'"):
        digits.label("cat")
    with pytest.raises(MlxflowError, match="needs a class"):
        list(digits.draw(None, 1, 0, Settings(1, "euler", 3.0)))
