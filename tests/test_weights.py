"""Weights load whole or not at all: every kind of damage is one sentence that says what is wrong."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxflow import weights
from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import CondOT
from mlxflow.runtime import mx
from tests.sampling import tiny


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny.weights_folder(tmp_path / "tiny")


def write(path: Path, arrays: dict, config: dict | None = None) -> Path:
    """A .safetensors file in a folder of its own, beside the words."""
    path.parent.mkdir(parents=True)
    weights.write_arrays(path, arrays, tiny.config() if config is None else config)
    shutil.copy(tiny.WORDS, path.parent)
    return path


def refused(path, *says) -> str:
    with pytest.raises(MlxflowError) as caught:
        weights.load(path)
    sentence = str(caught.value)
    assert all(text in sentence for text in says) and "\n" not in sentence, sentence
    return sentence


def test_what_is_saved_is_loaded_in_float16(folder):
    model = weights.load(folder)
    saved = tiny.arrays()
    loaded = dict(tree_flatten(model.network.parameters()))
    assert loaded.keys() == saved.keys()
    assert all(mx.array_equal(loaded[name], saved[name].astype(mx.float16).astype(loaded[name].dtype))
               for name in saved)
    assert model.config == tiny.config() == json.loads((folder / "config.json").read_text())
    assert model.image_size == 16 and model.words_path == folder / "words.safetensors"
    assert not model.network.training


def test_every_way_to_name_weights(folder, tmp_path, monkeypatch):
    step = tmp_path / "run" / "checkpoints" / "step-00000010"
    step.mkdir(parents=True)
    shutil.copy(folder / "model.safetensors", step / "ema.safetensors")
    shutil.copytree(step, step.parent / "step-00000009")
    shutil.copy(folder / "words.safetensors", tmp_path / "run")
    assert weights.load(tmp_path / "run").source == step / "ema.safetensors"
    assert weights.load(step).source == step / "ema.safetensors"
    assert weights.load(folder / "model.safetensors").source == folder / "model.safetensors"
    monkeypatch.setattr(weights.paths, "weights_dir", lambda: tmp_path)
    monkeypatch.chdir(folder)
    assert weights.load("tiny").source == folder / "model.safetensors"


def test_a_lone_file_needs_no_config_beside_it_but_an_older_one_may_use_it(folder, tmp_path):
    (folder / "config.json").unlink()
    assert weights.load(folder / "model.safetensors").config == tiny.config()
    mx.save_safetensors(str(folder / "model.safetensors"), tiny.arrays())
    refused(folder, "holds no config", "config.json")
    (folder / "config.json").write_text(json.dumps(tiny.config()))
    assert weights.load(folder).config == tiny.config()


def test_missing_weights(tmp_path):
    refused(tmp_path / "nowhere", "There are no weights at")
    refused("emojy", "There are no weights at emojy. Known names: emoji")
    refused(tmp_path, "holds no model.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 2000, 0.5, 0.99, -1])
def test_truncated_files(folder, keep):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(folder, "model.safetensors")


@pytest.mark.parametrize("content", [
    b"PK\x03\x04 a zip file, or another format", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]",
    struct.pack("<Q", 4) + b"\xff\xff\xff\xff", struct.pack("<Q", 20) + b'{"__metadata__": 1} ',
    struct.pack("<Q", 2) + b"{}"])
def test_files_of_another_kind(folder, content):
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors")


def test_arrays_that_are_missing_unexpected_or_of_another_shape_are_all_named(tmp_path):
    arrays = tiny.arrays()
    arrays["unet.extra"] = mx.zeros((2,))
    del arrays["unet.stem.weight"]
    arrays["unet.stem.bias"] = mx.zeros((3,))
    refused(write(tmp_path / "a" / "model.safetensors", arrays), "missing unet.stem.weight", "unexpected unet.extra",
            "unet.stem.bias has shape (3,) instead of (8,)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    arrays = tiny.arrays()
    broken = np.array(arrays["unet.stem.weight"])
    broken[3, 3] = value
    arrays["unet.stem.weight"] = mx.array(broken)
    refused(write(tmp_path / "a" / "model.safetensors", arrays), "unet.stem.weight has values that are not finite")


def changed(*path, to):
    """The tiny config with one value replaced (or removed, for `...`)."""
    config = json.loads(json.dumps(tiny.config()))
    part = config
    for name in path[:-1]:
        part = part[name]
    if to is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = to
    return config


@pytest.mark.parametrize("config, says", [
    (changed("model", to=...), "no config"), (changed("process", to=3), "no config"), ([1], "no config"),
    (changed("model", "kind", to="gan"), "no network 'gan'"),
    (changed("model", "unet", "colour", to=1), "UNetConfig has no field colour"),
    (changed("model", "unet", "embedding", to="wide"), "config"), (changed("model", "unet", to=None), "config"),
    (changed("model", "text", "width", to=17), "config"), (changed("model", "unet", "text_width", to=8), "text width"),
    (changed("model", "unet", "heads_dim", to=0), "config"), (changed("model", "unet", "widths", to=[8]), "fit"),
    (changed("process", "prediction", to="x"), "prediction"), (changed("process", "path", to="bent"), "path 'bent'"),
    (changed("process", "floor", to=...), "config"), (changed("process", "floor", to="low"), "config"),
    (changed("words", to="0" * 64), "word table"), (changed("words", to=...), "word table"),
])
def test_configs_that_no_network_can_be_made_of(tmp_path, config, says):
    refused(write(tmp_path / "a" / "model.safetensors", tiny.arrays(), config), says)


def test_saving_keeps_what_is_there_unless_forced_and_leaves_nothing_behind(folder):
    before = (folder / "model.safetensors").read_bytes()
    (folder / "MODEL_CARD.md").write_text("card")
    with pytest.raises(MlxflowError, match="already holds weights: add --force"):
        weights.save(folder, tiny.arrays(1), tiny.config(), tiny.WORDS)
    assert (folder / "model.safetensors").read_bytes() == before
    weights.save(folder, tiny.arrays(1), tiny.config(), tiny.WORDS, force=True)
    assert (folder / "model.safetensors").read_bytes() != before
    assert sorted(path.name for path in folder.iterdir()) == [
        "MODEL_CARD.md", "config.json", "model.safetensors", "words.safetensors"]


@pytest.mark.parametrize("prediction", ["data", "velocity", "noise"])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_velocity_follows_from_what_the_network_predicts(prediction, compiled):
    path = CondOT()
    x0, x1 = (mx.random.normal((2, 4, 4, 4), key=mx.random.key(i)) for i in range(2))
    t = mx.array([0.3, 0.7])
    x = path.sample(x0, x1, t)
    truth = {"data": x1, "noise": x0, "velocity": path.target(x0, x1, t)}

    class Network:
        def predict(self, x, t, condition):
            return truth[prediction] + 0 * condition

    process = {"path": "condot", "prediction": prediction, "floor": 0.05}
    velocity = weights.velocity_of(Network(), process, compiled)
    assert mx.allclose(velocity(x, t, mx.zeros((1,))), truth["velocity"], atol=1e-5)
