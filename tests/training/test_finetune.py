"""Going on from a whole model with a few pictures, while the embedded emoji are rehearsed."""

import json

import numpy as np
import pytest
from PIL import Image

from mlxflow.data import rehearsal
from mlxflow.errors import MlxflowError
from mlxflow.training import finetune
from mlxflow.training.config import TrainConfig
from mlxflow.training.dataset import TextDataset
from mlxflow.training.start import start
from tests.sampling import tiny
from tests.training.tiny import pictures

SMALL = {"batch": 8, "steps": 2, "sample_every": 1000, "validate_every": 1000}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.weights_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Six grey pictures in the place of the embedded set: what is tested does not depend on their number."""
    folder = tmp_path_factory.mktemp("embedded") / "emoji"
    folder.mkdir()
    for i in range(6):
        Image.new("RGBA", (16, 16), (100 + i, 100 + i, 100 + i, 255)).save(folder / f"grey_{'abcdef'[i]}.png")
    return folder


@pytest.fixture(autouse=True)
def small(embedded, monkeypatch):
    monkeypatch.setattr(rehearsal, "embedded_folder", lambda: embedded)
    monkeypatch.setattr(finetune, "embedded_folder", lambda: embedded)


def grey(batch):
    """Which pictures of a batch are those that are rehearsed."""
    first = np.abs(batch.images[..., 0] - batch.images[..., 1]) + np.abs(batch.images[..., 0] - batch.images[..., 2])
    return first.max((1, 2)) < 1e-3


@pytest.mark.parametrize("size", [1, 2])
def test_each_batch_has_its_share_and_goes_on_at_any_step(data, size):
    dataset = TextDataset(data, tiny.WORDS, shape=(16, 16, 4), length=6, rehearsal=True)
    config = TrainConfig(batch=8, rehearsal=0.25, shift=0)
    for rank in range(size):
        stream = dataset.batches(config, rank, size, 0)
        seen = [next(stream) for _ in range(5)]
        assert all(len(b.images) == 8 // size and grey(b).sum() == 2 // size for b in seen)
        later = dataset.batches(config, rank, size, 3)
        assert all((a == b).all() for a, b in zip(next(later), seen[3]))


def test_a_share_that_leaves_no_room_is_refused(data):
    dataset = TextDataset(data, tiny.WORDS, shape=(16, 16, 4), length=6, rehearsal=True)
    for share in (0.01, 1.0):
        with pytest.raises(MlxflowError, match="leaves no room"):
            dataset.batches(TrainConfig(batch=8, rehearsal=share), 0, 1, 0)


def test_a_run_goes_on_from_the_whole_model(model, data, tmp_path):
    start(tmp_path / "run", data=data, flags=SMALL, init=model)
    train = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert train["model"]["unet"]["widths"] == tiny.UNET["widths"] and train["rehearsal"] == 0.5
    assert train["learning_rate"] == finetune.DEFAULTS["learning_rate"] and train["batch"] == 8
    assert "red square" in train["prompts"] and "smiling cat" in train["prompts"]
    with pytest.raises(MlxflowError, match="rehearsal must be between 0 and 1"):
        start(tmp_path / "other", data=data, flags=SMALL | {"rehearsal": 2.0}, init=model)


def test_a_part_of_a_model_is_no_model(model, data, tmp_path):
    """A file of the text encoder alone starts a run as ever, also beside a whole model's config.json."""
    from mlxflow import weights

    arrays = {n: a for n, a in weights.read_arrays(weights.resolve(model)).items() if n.startswith("text.")}
    weights.write_arrays(tmp_path / "text.safetensors", arrays)
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    values = {"batch": 4}
    assert finetune.continued(values, tmp_path / "text.safetensors", data) == values
    assert finetune.continued(values, model, data)["rehearsal"] == 0.5


def test_the_report_asks_both_models_for_both_kinds(model, data, tmp_path, monkeypatch):
    other = tiny.weights_folder(tmp_path / "other", seed=1)
    asked = []
    drawn = finetune._drawn

    def recorded(pipeline, chosen):
        asked.append((pipeline.model.source.parent.name, [question.prompt for question in chosen]))
        return drawn(pipeline, chosen)

    monkeypatch.setattr(finetune, "_drawn", recorded)
    found = finetune.report(model, other, data, asked=3)
    assert {name: (of["before"]["n"], of["after"]["n"]) for name, of in found.items()} == {"names": (3, 3), "own": (3, 3)}
    assert [who for who, _ in asked] == ["tiny", "tiny", "other", "other"] and asked[0][1] == asked[2][1]
    assert all("grey" in prompt for prompt in asked[0][1]) and all("square" in prompt for prompt in asked[1][1])
    assert len(finetune.lines(found)) == 2


def test_a_model_that_draws_the_real_pictures_scores_100(model, data, monkeypatch):
    from mlxflow.data.images import load_rgba

    monkeypatch.setattr(finetune, "_drawn", lambda pipeline, chosen: (load_rgba(q.right[0].path, 16) for q in chosen))
    found = finetune.report(model, model, data, asked=3)
    assert all(of[when]["R@1"]["value"] == 100 for of in found.values() for when in ("before", "after"))


def test_a_folder_of_two_styles_teaches_their_names(data, tmp_path):
    """Each picture keeps its plain captions and gets ones with the style; the weights' config lists the styles."""
    plain = TextDataset(data, tiny.WORDS, shape=(16, 16, 4), length=6)
    assert "styles" not in plain.stamp
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    folder = tmp_path / "styles"
    folder.mkdir()
    for i, row in enumerate(rows):
        (folder / row["file_name"]).write_bytes((data / row["file_name"]).read_bytes())
        row["style"] = "flat" if i % 2 else "round"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = TextDataset(folder, tiny.WORDS, shape=(16, 16, 4), length=6)
    assert dataset.stamp["styles"] == ["flat", "round"]
    for record in dataset.train:
        first, second = (t for t in record.texts if t.endswith(" style"))
        assert first == f"{record.text}, {record.style} style" and second.startswith("a ")
        assert record.texts[0] == f"a {record.text.split()[0]} box"
