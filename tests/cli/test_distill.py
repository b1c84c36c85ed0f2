"""`mlxflow distill` from the shell, and what `sample` and `generate` do with its result."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from mlxflow import weights
from mlxflow.networks import build
from tests.training import tiny_classes as tiny

from mlx.utils import tree_flatten  # isort: skip

QUICK = ["--set", "log_every=1", "--set", "sample_every=1000", "--set", "validate_every=1000", "--batch", "8"]


def mlxflow(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mlxflow", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures of three classes, a teacher, and what was distilled from it."""
    place = tmp_path_factory.mktemp("place")
    tiny.classes(place / "data")
    config = {
        "format": 1,
        "model": tiny.DIT | {"classes": 3},
        "classes": ["blue", "green", "red"],
        "process": {"path": "condot", "prediction": "velocity", "floor": 0.05},
    }
    weights.save(place / "teacher", dict(tree_flatten(build(config["model"]).parameters())), config)
    done = mlxflow(
        "distill", "teacher", "--data", "data", "-o", "few", "--guidance", 2, "--steps", 1, *QUICK, cwd=place
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == "few/checkpoints/step-00000001\nTry it: mlxflow sample few -n 16 -o few.png --steps 1\n"
    )
    return place


def test_it_goes_on_and_draws_in_few_steps(place, tmp_path):
    done = mlxflow("distill", "--resume", "-o", "few", "--steps", 2, cwd=place)
    assert done.returncode == 0 and "step-00000002" in done.stdout, done.stderr
    for steps, calls in ((None, 4), (1, 1), (3, 3)):
        given = [] if steps is None else ["--steps", steps]
        done = mlxflow(
            "sample", place / "few", "-n", 2, "--seed", 1, "-o", f"{calls}.png", *given, cwd=tmp_path
        )
        assert done.stdout.endswith(f"{calls} evaluation{'s' if calls > 1 else ''} each\n"), done.stderr
        made_by = json.loads(Image.open(tmp_path / f"{calls}.png").text["mlxflow"])
        assert (made_by["steps"], made_by["solver"], made_by["guidance"]) == (calls, "shortcut", 1.0)
    shown = mlxflow("info", place / "few", cwd=tmp_path).stdout
    assert "few_step    guidance 2.0" in shown


@pytest.mark.parametrize(
    "command, says",
    [
        (["sample", "few", "--guidance", 3], "guidance of 2 built in"),
        (["sample", "few", "--steps", 33], "1 to 32 steps"),
        (["sample", "teacher", "--solver", "shortcut"], "needs a few-step model"),
        (["sample", "teacher", "--solver", "jump"], "no solver 'jump'"),
        (["distill", "--data", "data"], "which model to learn from"),
        (["distill", "teacher"], "--data FOLDER"),
        (["distill", "few", "--data", "data"], "draws in few steps already"),
        (["distill", "nowhere", "--data", "data"], "no weights at nowhere"),
        (["distill", "teacher", "--data", "data", "-o", "few"], "already holds a run"),
        (
            ["distill", "teacher", "--data", "data", "-o", "new", "--guidance", "-1"],
            "guidance must be 0 or more",
        ),
        (
            ["distill", "teacher", "--data", "data", "-o", "few", "--resume", "--guidance", 3],
            "cannot change guidance",
        ),
    ],
)
def test_bad_input_is_a_sentence_and_exit_2(place, command, says):
    before = sorted(place.rglob("*"))
    done = mlxflow(*command, cwd=place)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and sorted(place.rglob("*")) == before
