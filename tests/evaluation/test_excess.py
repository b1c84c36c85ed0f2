"""The loss above the floor: the floor is the oracle's on the same noise."""

from types import SimpleNamespace

import pytest

from mlxflow.data.folder import read_folder
from mlxflow.data.images import load_all, premultiply
from mlxflow.evaluation import excess as module
from mlxflow.evaluation.excess import excess
from mlxflow.flow.oracle import Oracle
from mlxflow.runtime import mx
from tests.evaluation.test_floor import make_folder
from tests.evaluation.tiny_folder import make_folder as emoji_folder


def test_random_weights_are_above_the_floor_and_told_captions_leave_none(pipeline, tmp_path):
    found = excess(pipeline, read_folder(emoji_folder(tmp_path / "f")).records)
    assert set(found) == {"val", "train"} and found["val"]["n"] == 1 and found["train"]["n"] == 17
    for split in found.values():
        assert split["prompt"]["floor"] == 0 and split["prompt"]["loss"] == split["prompt"]["excess"] > 0
        blind = split["no_prompt"]
        assert blind["floor"] > 0 and blind["excess"] == pytest.approx(blind["loss"] - blind["floor"], abs=2e-5)
        assert len(blind["bins"]) == len(blind["floor_bins"]) == 10
        assert blind["floor_bins"][0] > blind["floor_bins"][-1]


def test_a_caption_of_several_pictures_leaves_a_floor(pipeline, tmp_path):
    records = read_folder(make_folder(tmp_path / "f", list("aab"), size=16)).records
    found = excess(pipeline, records)["train"]
    assert 0 < found["prompt"]["floor"] < found["no_prompt"]["floor"]


def test_a_perfect_memory_has_no_excess(pipeline, tmp_path):
    """The oracle in place of the network: with equal groups the pictures weigh the same."""
    records = read_folder(make_folder(tmp_path / "f", list("abcdefgh"), size=16)).records
    oracle = Oracle(mx.array(premultiply(load_all(records, 16))))
    memory = SimpleNamespace(encode=lambda vectors, mask: None, predict=lambda x, t, condition: oracle.data(x, t))
    model = SimpleNamespace(network=memory, config=pipeline.model.config, image_size=16)
    blind = SimpleNamespace(model=model, words=pipeline.words, length=pipeline.length)
    found = excess(blind, records)["train"]
    assert found["no_prompt"]["floor"] > 0.01 and found["no_prompt"]["excess"] == pytest.approx(0, abs=2e-5)
    assert found["prompt"]["excess"] > 0.01  # it does not listen


def test_too_many_pictures_leave_the_floor_out(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_NUMBERS", 100)
    records = read_folder(make_folder(tmp_path / "f", list("ab"), size=16)).records
    assert set(excess(pipeline, records)["train"]["prompt"]) == {"loss", "bins"}
