"""The report on a weights folder: its table, its JSON, and how it names the place where the two part."""

import json

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from mlxflow import weights
from mlxflow.errors import MlxflowError
from mlxflow.interop.convert import read, write_weights
from mlxflow.networks import build
from mlxflow.parity import report
from tests.interop.networks import CONFIGS, model_config, random_arrays
from tests.sampling.tiny import weights_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return weights_folder(tmp_path_factory.mktemp("parity") / "tiny")


@pytest.fixture(scope="module")
def whole(folder):
    return report.compare(folder)


def test_all_parts_of_a_text_model_are_compared(whole):
    assert whole.ok and whole.first_failure is None
    assert {"forward", "batch of 1", "t = 0", "t = 1", "empty prompt", "longest prompt", "batch of 16",
            "16 steps of heun, guidance 3", "8 steps of euler, guidance 1"} <= whole.sections.keys()
    assert any("AdamW" in name for name in whole.sections) and any("Muon" in name for name in whole.sections)


def test_the_table_has_every_block_and_every_section_once(whole):
    names = [line.name for line in whole.lines()]
    assert len(names) == len(set(names))
    assert {"text.blocks.0", "unet.encoder.1.residual.0", "unet.encoder.1.attention.0", "unet.head"} <= set(names)
    assert sum(line.count for line in whole.lines()) == sum(map(len, whole.sections.values()))
    for line in whole.lines():
        assert line.worst.ok


def test_the_json_has_every_stage(whole, tmp_path):
    file = tmp_path / "parity.json"
    whole.write(file)
    read = json.loads(file.read_text())
    assert read["ok"] and read["first_failure"] is None and len(read["sha256"]) == 64
    assert read["sections"].keys() == whole.sections.keys()
    one = read["sections"]["forward"][3]
    assert one.keys() == {"stage", "max_abs", "max_rel", "scale", "tolerance", "ok"}
    assert not [f for f in tmp_path.iterdir() if f != file]


def test_the_first_place_where_they_part_is_named(folder, monkeypatch):
    silu = F.silu
    monkeypatch.setattr(F, "silu", lambda x: silu(x) + 1e-3)
    for slow in ("training", "updates", "sampling"):
        monkeypatch.setattr(report.checks, slow, lambda *given, **settings: [])
    found = report.compare(folder)
    section, row = found.first_failure
    assert not found.ok and (section, row.stage) == ("forward", "text.blocks.0.down")
    assert found.to_dict()["first_failure"] == "forward: text.blocks.0.down"


@pytest.mark.parametrize("kind", ["dit", "vq-vae"])
def test_models_without_words_are_compared_too(kind, tmp_path):
    config = model_config(kind)
    weights.save(tmp_path / kind, random_arrays(build(CONFIGS[kind])), config)
    found = report.compare(tmp_path / kind)
    assert found.ok, found.first_failure
    assert ("pictures of latents" in found.sections) == (kind == "vq-vae")


def test_quantised_weights_are_refused(tmp_path):
    target = tmp_path / "eight"
    write_weights(read("emoji"), target, quantise=8)
    with pytest.raises(MlxflowError, match="quantised"):
        report.compare(target)
