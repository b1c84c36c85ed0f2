import json
from pathlib import Path

import numpy as np
import pytest

from apps.experiment import (figure, inline, position, snapshot, speed, table, train, training_loss, write_report)
from mlxflow import weights
from mlxflow.training.config import from_values, read_recipe
from tests.training import tiny_classes as tiny

APPS = Path(__file__).parents[2] / "apps"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.classes(tmp_path_factory.mktemp("data") / "classes")


def test_training_starts_goes_on_and_finds_that_it_is_done(data, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("".join(f"{n} = {json.dumps(v)}\n" for n, v in tiny.SETTINGS.items()))
    run, settings = tmp_path / "run", {"model": tiny.DIT}
    assert position(run) == {"step": 0, "images": 0, "seconds": 0.0}
    assert train(run, data, recipe, steps=2, settings=settings)["step"] == 2
    early = snapshot(run, tmp_path / "early.safetensors")
    assert train(run, data, recipe, steps=4, settings=settings)["images"] == 32
    assert weights.read_config(early)["trained"]["steps"] == 2
    assert snapshot(run, early) == early and weights.read_config(early)["trained"]["steps"] == 2
    assert training_loss(run, last=2) == pytest.approx(np.mean([
        json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()][2:]))
    assert training_loss(run, last=1, until=1) != training_loss(run, last=1) and speed(run) > 0
    after = train(run, data, recipe, steps=5)
    monkeypatch.setattr("apps.experiment.begin", None)  # it would fail if it were asked
    assert train(run, data, recipe, steps=3) == after and after["step"] == 5


def test_an_interrupted_training_ends_the_report(data, tmp_path, monkeypatch):
    monkeypatch.setattr("apps.experiment.begin", lambda *arguments, **more: None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", data, tmp_path, steps=5)


@pytest.mark.parametrize("recipe", sorted(p.relative_to(APPS) for p in APPS.glob("*/*.toml") if p.name != "networks.toml"),
                         ids=str)
def test_every_recipe_is_a_config_of_a_network_that_can_be_built(recipe):
    from mlxflow.networks import build

    config = from_values(read_recipe(APPS / recipe), str(recipe))
    assert build(config.model).shape[0] in (8, 16, 28, 32, 64)
    # The emoji train until they are stopped.
    assert config.steps or config.minutes or recipe.parts[0] == "emoji"
    assert config.batch % config.accumulate == 0


def test_the_networks_that_are_compared_have_about_the_same_size():
    import tomllib

    from mlx.utils import tree_flatten

    from mlxflow.networks import build

    for group in tomllib.loads((APPS / "mnist_architectures" / "networks.toml").read_text()).values():
        sizes = [sum(a.size for _, a in tree_flatten(build(model | {"image_size": 32, "channels": 1, "classes": 10})
                                                     .parameters())) for model in group.values()]
        assert len(sizes) == 4 and max(sizes) < 1.15 * min(sizes)


def test_tables_figures_and_inline_toml(tmp_path):
    import tomllib

    assert table(["a", "b"], [[1234, 0.123456], ["x", 2.0]]) == "| a | b |\n| --- | --- |\n| 1,234 | 0.1235 |\n| x | 2 |"
    value = {"kind": "dit", "widths": [1, 2], "inner": {"deep": True, "text": 'a "b"'}, "x": 0.5}
    assert tomllib.loads(f"v = {inline(value)}")["v"] == value
    red = np.zeros((3, 4, 4, 4), np.uint8)
    red[..., [0, 3]] = 255
    sheet = figure([("one", red), ("two", red[:1])], scale=2)
    pixels = np.array(sheet)
    assert (pixels == (255, 0, 0)).all(axis=-1).sum() == 4 * 64
    write_report(tmp_path / "out", "text", {"a.png": sheet})
    assert (tmp_path / "out" / "report.md").read_text() == "text" and (tmp_path / "out" / "a.png").exists()
