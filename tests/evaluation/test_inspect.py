import subprocess
import sys

import pytest

from mlxflow import weights
from mlxflow.errors import MlxflowError
from mlxflow.evaluation.inspect import inspect_model, inspect_weights
from mlxflow.networks import build
from mlxflow.networks.text import Condition
from mlxflow.paths import weights_dir
from mlxflow.runtime import mx
from tests.training.tiny import TEXT, UNET

from mlx.utils import tree_flatten, tree_map  # isort: skip

WORDS = weights_dir() / "emoji" / weights.WORDS
MODEL = {"kind": "text-unet", "unet": UNET}
PROMPTS = ["red heart", "smiling cat", "pizza", "blue car"]


@pytest.fixture
def model():
    """A network with random weights everywhere, the layers that begin as zeros too."""
    from mlxflow.data.words import WordTable

    table = WordTable.load(WORDS)
    settings = MODEL | {"text": TEXT | {"word_dim": table.dim}}
    mx.random.seed(0)
    network = build(settings)
    network.update(tree_map(lambda p: p + 0.1 * mx.random.normal(p.shape), network.parameters()))
    config = {
        "format": 1,
        "model": settings,
        "words": table.sha256,
        "process": {"path": "condot", "prediction": "data", "floor": 0.05},
    }
    return weights.Model(network, config, WORDS, WORDS)


def test_a_seeing_model_passes_and_the_result_follows_from_the_seed(model):
    found = inspect_model(model, PROMPTS)
    assert found.blind_to == () and found == inspect_model(model, PROMPTS)
    assert found != inspect_model(model, PROMPTS, seed=1)


@pytest.mark.parametrize("part", ["t", "x", "condition"])
def test_a_model_made_blind_is_named(model, part):
    see = model.network.predict

    def blind(x, t, condition):
        if part == "t":
            t = mx.zeros_like(t)
        if part == "x":
            x = mx.zeros_like(x)
        if part == "condition":
            condition = Condition(*map(mx.zeros_like, condition))
        return see(x, t, condition)

    model.network.predict = blind
    assert inspect_model(model, PROMPTS).blind_to == (part,)


def test_from_the_shell_a_blind_model_exits_with_1(model, tmp_path):
    def save(name, network):
        weights.save(tmp_path / name, dict(tree_flatten(network.parameters())), model.config, WORDS)
        return subprocess.run(
            [sys.executable, "-m", "mlxflow", "inspect", str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    seeing = save("seeing", model.network)
    assert seeing.returncode == 0 and seeing.stdout.count("used") == 3, seeing.stderr
    # Before its first step the zero-initialised last layer makes every network blind.
    untrained = save("untrained", build(model.config["model"]))
    assert untrained.returncode == 1 and untrained.stdout.count("BLIND") == 3, untrained.stderr


def test_bad_input_gets_a_sentence(model, tmp_path):
    with pytest.raises(MlxflowError, match="two or more different prompts"):
        inspect_model(model, ["cat", "cat"])
    with pytest.raises(MlxflowError, match="no weights"):
        inspect_weights(tmp_path / "none", PROMPTS)
