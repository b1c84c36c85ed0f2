import json

import pytest

from mlxflow.errors import MlxflowError
from mlxflow.training.config import TrainConfig, from_values, read_recipe
from mlxflow.training.start import start
from tests.training.tiny import SETTINGS, pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def run(data, tmp_path):
    start(tmp_path / "run", data=data, flags=SETTINGS | {"steps": 1})
    return tmp_path / "run"


def test_an_existing_run_is_refused_without_resume_or_force(data, run):
    before = sorted(run.rglob("*"))
    with pytest.raises(MlxflowError, match="already holds a run.*--resume.*--force"):
        start(run, data=data, flags=SETTINGS | {"steps": 1})
    assert sorted(run.rglob("*")) == before
    start(run, data=data, flags=SETTINGS | {"steps": 2}, force=True)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_a_folder_with_other_things_is_never_used(data, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mother.txt").write_text("dear")
    with pytest.raises(MlxflowError, match="not empty"):
        start(tmp_path / "letters", data=data, flags=SETTINGS | {"steps": 1})
    assert (tmp_path / "letters" / "mother.txt").read_text() == "dear"


def test_a_failed_start_leaves_the_run_that_was_there(data, run):
    with pytest.raises(MlxflowError, match="batch 7"):
        start(run, data=data, flags=SETTINGS | {"batch": 7, "accumulate": 2}, force=True)
    assert (run / "checkpoints" / "step-00000001" / "model.safetensors").exists()


def test_resume_needs_a_run_and_keeps_its_settings(data, run, tmp_path):
    with pytest.raises(MlxflowError, match="no run"):
        start(tmp_path / "nowhere", data=data, flags={}, resume=True)
    with pytest.raises(MlxflowError, match="cannot change learning_rate"):
        start(run, data=None, flags={"learning_rate": 0.5}, resume=True)
    with pytest.raises(MlxflowError, match="no setting called stepz"):
        start(run, data=None, flags={"stepz": 3}, resume=True)
    start(run, data=None, flags={"steps": 2, "learning_rate": 1e-3}, resume=True)


def test_no_data_folder_is_a_sentence(tmp_path):
    with pytest.raises(MlxflowError, match="--data"):
        start(tmp_path / "run", data=None, flags=SETTINGS)
    with pytest.raises(MlxflowError, match="does not exist"):
        start(tmp_path / "run", data=tmp_path / "missing", flags=SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_written_is_a_sentence(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlxflowError, match="cannot be written"):
        start(tmp_path / "file" / "run", data=data, flags=SETTINGS)


@pytest.mark.parametrize("values, complaint", [
    ({"steps": -1}, "steps must be 0 or more"),
    ({"batch": 0}, "batch must be more than 0"),
    ({"batch": 2.5}, "batch must be of type int"),
    ({"optimizer": "sgd"}, "optimizer must be adamw or muon"),
    ({"schedule": "cosine"}, "needs --steps"),
    ({"drop": 1.5}, "drop must be between 0 and 1"),
    ({"learning_rate": float("nan")}, "learning_rate must be more than 0"),
    ({"colour": 1}, "no setting called colour"),
    ({"prompts": "cat"}, "prompts must be a list"),
    ({"times": "gamma"}, "gamma"),
    ({"path": "spiral"}, "spiral"),
])
def test_wrong_settings_are_sentences(values, complaint):
    with pytest.raises(MlxflowError, match=complaint):
        from_values(values, "recipe.toml")


def test_a_recipe_is_the_config(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('batch = 16\nlearning_rate = 1\n[model]\nkind = "text-unet"\n[model.unet]\nwidths = [8, 8, 16]\n')
    config = from_values(read_recipe(recipe), "recipe")
    assert (config.batch, config.learning_rate, config.model["unet"]["widths"]) == (16, 1.0, [8, 8, 16])
    assert from_values(json.loads(json.dumps(config.to_dict())), "json") == config
    assert config.replace(batch=8).batch == 8 and TrainConfig().batch == 64
    recipe.write_text("batch = ")
    with pytest.raises(MlxflowError, match="not a TOML recipe"):
        read_recipe(recipe)
    with pytest.raises(MlxflowError, match="no recipe"):
        read_recipe(tmp_path / "none.toml")
