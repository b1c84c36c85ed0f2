"""Weights there and back, and every way in which they are refused."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow import weights
from mlxflow.errors import MlxflowError
from mlxflow.interop import convert
from mlxflow.interop.torch import to_torch
from mlxflow.networks import build
from mlxflow.runtime import mx

from tests.interop.networks import CONFIGS, bits, model_config, random_arrays
from tests.sampling import tiny


def model(kind: str = "dit"):
    """(config, network, arrays) of a small model."""
    config = model_config(kind)
    network = build(config["model"])
    return config, network, random_arrays(network)


def torch_state(network, arrays) -> dict:
    return {name: torch.from_numpy(array) for name, array in to_torch(network, arrays).items()}


def folder_of(path, kind: str = "dit", dtype=mx.float32):
    config, _, arrays = model(kind)
    weights.save(path, arrays, config, tiny.WORDS if "words" in config else None, dtype=dtype)
    return path


def equal(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        bits(one[n]) == bits(two[n]) and one[n].shape == two[n].shape for n in one)


def refused(says, call, *arguments, **options) -> str:
    with pytest.raises(MlxflowError, match=says) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_weights_to_torch_and_back_are_equal_to_the_bit(tmp_path, kind, suffix):
    folder = folder_of(tmp_path / "ours", kind)
    file = convert.write_torch(convert.read(folder), tmp_path / f"theirs{suffix}")
    back = convert.write_weights(convert.read(file), tmp_path / "back")
    assert equal(weights.read_arrays(folder / "model.safetensors"), weights.read_arrays(back))
    assert weights.read_config(back) == weights.read_config(folder / "model.safetensors")
    again = convert.write_torch(convert.read(tmp_path / "back"), tmp_path / f"again{suffix}")
    if suffix == ".safetensors":
        assert equal(mx.load(str(file)), mx.load(str(again)))
    else:
        one, two = (torch.load(f, weights_only=True) for f in (file, again))
        assert one["config"] == two["config"] and equal(one["state_dict"], two["state_dict"])


def test_a_torch_module_takes_the_state_dict_and_computes_the_same(tmp_path):
    config, network, arrays = model("dit")
    weights.save(tmp_path / "ours", arrays, config, dtype=mx.float32)
    file = convert.write_torch(convert.read(tmp_path / "ours"), tmp_path / "a.pt")
    stem = torch.nn.Linear(12, 16)
    state = torch.load(file, weights_only=True)["state_dict"]
    stem.load_state_dict({n.removeprefix("stem."): a for n, a in state.items() if n.startswith("stem.")})
    network.update(tree_unflatten(list(arrays.items())))
    x = np.random.default_rng(0).standard_normal((2, 12), dtype=np.float32)
    np.testing.assert_allclose(stem(torch.tensor(x)).detach(), np.array(network.stem(mx.array(x))), atol=1e-6)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_types_are_kept_through_torch_unless_another_is_asked_for(tmp_path, dtype, suffix):
    folder = folder_of(tmp_path / "ours", dtype=mx.float32)
    typed = convert.typed(convert.read(folder), dtype)
    file = convert.write_torch(typed, tmp_path / f"a{suffix}")
    if suffix == ".pt":
        assert {str(a.dtype) for a in torch.load(file)["state_dict"].values()} == {f"torch.{dtype}"}
    back = convert.write_weights(convert.read(file), tmp_path / "back")
    want = {n: a.astype(convert.DTYPES[dtype]) for n, a in weights.read_arrays(folder / "model.safetensors").items()}
    got = weights.read_arrays(back)
    assert all(got[n].dtype == want[n].dtype and mx.array_equal(got[n], want[n]) for n in want)
    loaded = dict(tree_flatten(weights.load(tmp_path / "back", dtype=mx.float32).network.parameters()))
    assert all(mx.array_equal(loaded[n], want[n].astype(mx.float32)) for n in want)


def test_double_precision_becomes_single(tmp_path):
    config, network, arrays = model()
    state = {n: a.double() for n, a in torch_state(network, arrays).items()}
    torch.save({"model": state, "config": config}, tmp_path / "a.pt")
    assert equal(convert.read(tmp_path / "a.pt").arrays, arrays)


def test_the_averaged_weights_of_a_checkpoint_are_taken_and_it_is_said(tmp_path):
    config, network, arrays = model()
    other = random_arrays(network, seed=1)
    torch.save({"model": torch_state(network, arrays), "ema": torch_state(network, other), "config": json.dumps(config)},
               tmp_path / "a.pt")
    source = convert.read(tmp_path / "a.pt")
    assert equal(source.arrays, other) and source.note == "the averaged weights, 'ema'"


# Where the network's config comes from

def test_a_bare_state_dict_needs_a_config(tmp_path):
    _, network, arrays = model()
    torch.save(torch_state(network, arrays), tmp_path / "a.pt")
    refused("does not say which network.*--like WEIGHTS.*--config FILE", convert.read, tmp_path / "a.pt")
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {n: mx.array(a) for n, a in to_torch(network, arrays).items()},
                        {"format": "pt"})
    refused("does not say which network", convert.read, tmp_path / "a.safetensors")


def test_the_config_of_other_weights_does_without_what_only_they_have(tmp_path):
    config, network, arrays = model("text-unet")
    torch.save(torch_state(network, arrays), tmp_path / "a.pt")
    quantised = config | {"trained": {"steps": 9}, "quantization": {"bits": 8, "group_size": 32}}
    folder = folder_of(tmp_path / "other", "text-unet")
    stored = weights.read_arrays(folder / "model.safetensors")
    weights.write_arrays(folder / "model.safetensors", stored, quantised)
    source = convert.read(tmp_path / "a.pt", like=folder)
    assert source.config == config and equal(source.arrays, arrays)
    assert source.words == folder / "words.safetensors"


RECIPE = """
prediction = "velocity"
floor = 0.1
sigma_min = 0.01
steps = 7
[model]
kind = "dit"
image_size = 8
patch = 2
width = 16
depth = 2
heads = 2
classes = 3
"""


def test_configs_of_weights_of_runs_and_recipes(tmp_path):
    from mlxflow.training.config import from_values, read_recipe

    config, network, arrays = model()
    torch.save(torch_state(network, arrays), tmp_path / "a.pt")
    (tmp_path / "weights.json").write_text(json.dumps(config))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    run = from_values(read_recipe(tmp_path / "recipe.toml"), "recipe").to_dict()
    (tmp_path / "run.json").write_text(json.dumps({"train": run, "data": "/somewhere", "init": None}))
    assert convert.read(tmp_path / "a.pt", tmp_path / "weights.json").config == config
    process = {"path": "condot", "prediction": "velocity", "floor": 0.1, "sigma_min": 0.01}
    for name in ("recipe.toml", "run.json"):
        made = convert.read(tmp_path / "a.pt", tmp_path / name).config
        assert made == {"format": 1, "model": config["model"], "process": process}


def test_words_are_the_table_beside_the_checkpoint_else_the_shipped_one(tmp_path):
    config, network, arrays = model("text-unet")
    del config["words"]
    torch.save(torch_state(network, arrays), tmp_path / "a.pt")
    (tmp_path / "c.json").write_text(json.dumps(config))
    source = convert.read(tmp_path / "a.pt", tmp_path / "c.json")
    assert source.config["words"] == tiny.word_table().sha256 and source.words == tiny.WORDS
    shutil.copy(tiny.WORDS, tmp_path / "words.safetensors")
    assert convert.read(tmp_path / "a.pt", tmp_path / "c.json").words == tmp_path / "words.safetensors"


@pytest.mark.parametrize("content, says", [
    ("{", "not JSON"), ("[]", "no part 'model'"), ('{"model": 3}', "no part 'model'"), ('{"train": {}}', "no part 'model'"),
    ('{"model": {"kind": "gan"}}', "no network 'gan'"), ('{"model": {"kind": "dit", "width": 7}}', "no network: width 7"),
    ('{"model": {"kind": "dit"}, "colour": 1}', "no setting called colour"),
    ('{"model": {"kind": "dit", "width": 7}, "process": {}}', "no network: width 7"),
    ('{"model": {"kind": "dit"}, "process": {}}', "'path' is missing"),
])
def test_configs_that_make_no_sense(tmp_path, content, says):
    _, network, arrays = model()
    torch.save(torch_state(network, arrays), tmp_path / "a.pt")
    (tmp_path / "c.json").write_text(content)
    refused(says, convert.read, tmp_path / "a.pt", tmp_path / "c.json")


def test_sources_that_say_themselves_what_they_are_take_no_config(tmp_path):
    folder = folder_of(tmp_path / "ours")
    refused("config of its own", convert.read, folder, like="emoji")
    torch.save({}, tmp_path / "a.pt")
    refused("give one of them", convert.read, tmp_path / "a.pt", tmp_path / "c.json", "emoji")
    refused("cannot be read", convert.read, tmp_path / "a.pt", tmp_path / "c.json")
    refused("no weights at", convert.read, tmp_path / "nothing")
    (tmp_path / "a.txt").write_text("weights")
    refused("is none of .pt", convert.read, tmp_path / "a.txt")


# What does not fit is listed, all of it

def damaged(state: dict) -> dict:
    state = dict(state)
    del state["stem.bias"], state["labels"]
    state["blocks.0.up.weight"] = torch.zeros(3, 16)
    state["head.bias"] = torch.zeros(12, dtype=torch.int64)
    return state | {"critic.a": torch.zeros(1), "critic.b": torch.zeros(2, 2)}


def test_everything_that_does_not_fit_is_listed(tmp_path):
    config, network, arrays = model()
    torch.save({"state_dict": damaged(torch_state(network, arrays)), "config": config}, tmp_path / "a.pt")
    sentence = refused("does not fit its network", convert.read, tmp_path / "a.pt")
    for text in ("missing stem.bias", "missing labels", "unexpected critic.a", "unexpected critic.b",
                 "blocks.0.up.weight has shape (3, 16) instead of (64, 16)", "head.bias has numbers of type int64"):
        assert text in sentence


def test_shapes_are_told_as_torch_has_them(tmp_path):
    config, network, arrays = model("unet")
    state = torch_state(network, arrays)
    state["unet.pixel_in.weight"] = torch.zeros(3, 2, 3, 3)
    torch.save({"model": state, "config": config}, tmp_path / "a.pt")
    refused(r"unet.pixel_in.weight has shape \(3, 2, 3, 3\) instead of \(3, 3, 3, 3\)", convert.read, tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_values_that_are_no_numbers_are_refused_all_of_them(tmp_path, suffix):
    config, network, arrays = model()
    arrays["stem.bias"] = mx.array([np.nan] + [0.0] * 15)
    arrays["head.bias"] = mx.array([-np.inf] + [0.0] * 11)
    if suffix == ".pt":
        torch.save({"model": torch_state(network, arrays), "config": config}, tmp_path / "a.pt")
    else:
        made = {n: mx.array(a) for n, a in to_torch(network, arrays).items()}
        weights.write_arrays(tmp_path / "a.safetensors", made, config, form="pt")
    sentence = refused("not finite", convert.read, tmp_path / f"a{suffix}")
    assert "stem.bias has values" in sentence and "head.bias has values" in sentence


def test_values_that_float16_cannot_hold_are_refused(tmp_path):
    config, _, arrays = model()
    arrays["stem.bias"] = mx.full((16,), 70000.0)
    weights.save(tmp_path / "a", arrays, config, dtype=None)
    source = convert.read(tmp_path / "a")
    refused("float16 cannot hold, in stem.bias: choose float32 or bfloat16", convert.typed, source, "float16")
    assert convert.typed(source, "bfloat16").arrays["stem.bias"].dtype == mx.bfloat16


def test_a_tensor_that_claims_more_than_its_file_holds_is_refused_before_it_is_made(tmp_path):
    config, network, arrays = model()
    state = torch_state(network, arrays) | {"stem.bias": torch.zeros(1).expand(10**12)}
    torch.save({"model": state, "config": config}, tmp_path / "a.pt")
    refused(r"stem.bias has shape \(1000000000000,\) instead of \(16,\)", convert.read, tmp_path / "a.pt")


@pytest.mark.parametrize("array", [torch.zeros(16).to_sparse(), torch.zeros(16, dtype=torch.complex64),
                                   torch.zeros(16, device="meta")])
def test_tensors_of_other_kinds_are_refused(tmp_path, array):
    config, network, arrays = model()
    torch.save({"model": torch_state(network, arrays) | {"stem.bias": array}, "config": config}, tmp_path / "a.pt")
    refused("stem.bias has numbers of type", convert.read, tmp_path / "a.pt")


# Targets

def snapshot(folder) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("target", ["w", "a.pt", "a.safetensors"])
def test_a_target_that_exists_is_kept_unless_forced(tmp_path, target):
    folder = folder_of(tmp_path / "ours")
    write = convert.write_torch if "." in target else convert.write_weights
    write(convert.read(folder), tmp_path / target)
    before = snapshot(tmp_path)
    changed = convert.typed(convert.read(folder), "float16")
    refused("add --force", write, changed, tmp_path / target)
    assert snapshot(tmp_path) == before
    written = write(changed, tmp_path / target, force=True)
    assert snapshot(tmp_path).keys() == before.keys() and written.stat().st_size < len(before[str(written.relative_to(tmp_path))])


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("target", ["w", "a.pt", "a.safetensors"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("fails", ["fsync", "rename"])
def test_nothing_half_written_appears(tmp_path, monkeypatch, target, exists, fails):
    source = convert.read(folder_of(tmp_path / "ours"))
    write = convert.write_torch if "." in target else convert.write_weights
    if exists:
        write(source, tmp_path / target)
    before = snapshot(tmp_path)
    for name in ([fails, "replace"] if fails == "rename" else [fails]):
        monkeypatch.setattr(os, name, full_disk)
    refused("No space left on device.*nothing was changed", write, convert.typed(source, "float16"), tmp_path / target,
            force=True)
    monkeypatch.undo()
    assert snapshot(tmp_path) == before and (tmp_path / target).exists() == exists


def test_a_run_gives_its_average_and_a_folder_of_torchs_is_known(tmp_path):
    step = tmp_path / "run" / "checkpoints" / "step-00000010"
    folder = folder_of(tmp_path / "ours")
    step.mkdir(parents=True)
    shutil.copy(folder / "model.safetensors", step / "ema.safetensors")
    source = convert.read(tmp_path / "run")
    assert source.note == "the averaged weights of a run"
    convert.write_torch(source, tmp_path / "theirs" / "model.safetensors")
    assert equal(convert.read(tmp_path / "theirs").arrays, source.arrays)


def test_names_of_targets(tmp_path):
    assert convert.write_weights(convert.read(folder_of(tmp_path / "0.5")), tmp_path / "v1.5").is_file()
    source = convert.read(folder_of(tmp_path / "ours"))
    refused("called .pt, .pth or .safetensors, not a.bin", convert.write_torch, source, tmp_path / "a.bin")
    refused("names a file: weights are a folder", convert.write_weights, source, tmp_path / "a.pt")
    (tmp_path / "b.pt").mkdir()
    refused("is a folder", convert.write_torch, source, tmp_path / "b.pt", force=True)
    (tmp_path / "file").write_text("")
    refused("could not be written", convert.write_weights, source, tmp_path / "file", force=True)
    refused("could not be written", convert.write_torch, source, tmp_path / "file" / "a.pt")


# Quantised weights

@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_weights_load_and_are_as_near_as_their_bits_say(tmp_path, bits):
    config = {"format": 1, "model": {"kind": "dit", "image_size": 8, "width": 64, "depth": 1, "heads": 2},
              "process": {"path": "condot", "prediction": "velocity", "floor": 0.05}}
    arrays = random_arrays(build(config["model"]))
    weights.save(tmp_path / "plain", arrays, config, dtype=mx.float32)
    file = convert.write_weights(convert.read(tmp_path / "plain"), tmp_path / "q", quantise=bits)
    assert weights.read_config(file)["quantization"] == {"bits": bits, "group_size": 32}
    assert file.stat().st_size < 0.5 * (tmp_path / "plain" / "model.safetensors").stat().st_size
    back = convert.read(tmp_path / "q")
    assert "quantization" not in back.config and f"{bits}-bit weights" in back.note
    changed = 0
    for name, want in arrays.items():
        got = back.arrays[name]
        if mx.array_equal(got, want):
            continue
        changed += 1
        # A step is the range of a group of 32 in 2^bits - 1 parts; MLX moves the steps a little, so that 0 is one.
        groups = want.reshape(-1, 32)
        step = (groups.max(axis=1) - groups.min(axis=1)) / (2**bits - 1)
        assert (mx.abs(got - want).reshape(-1, 32).max(axis=1) <= step + 1e-6).all()
    assert changed == sum(name.endswith(".scales") for name in weights.read_arrays(file)) > 5
    loaded = weights.load(tmp_path / "q")
    x, t = mx.random.normal((2, 8, 8, 3), key=mx.random.key(1)), mx.array([0.2, 0.7])
    plain = back.model().network
    np.testing.assert_allclose(np.array(loaded.network(x, t)), np.array(plain(x, t)), atol=2e-4, rtol=1e-3)


def test_a_quantised_folder_generates(tmp_path):
    from mlxflow.sampling.pipeline import Pipeline

    config = tiny.config()
    config["model"]["unet"] = tiny.UNET | {"widths": [64, 64, 64], "heads_dim": 16}
    arrays = random_arrays(build(config["model"]), scale=0.05)
    weights.save(tmp_path / "plain", arrays, config, tiny.WORDS, dtype=mx.float32)
    convert.write_weights(convert.read(tmp_path / "plain"), tmp_path / "q", quantise=8)
    one, two = (Pipeline.load(tmp_path / name).generate("cat", seed=3, steps=4, guidance=1.5)[0] for name in ("plain", "q"))
    difference = np.abs(np.asarray(one, int) - np.asarray(two, int))
    assert 0 < difference.mean() < 12


def test_quantised_weights_with_floats_in_the_place_of_bits_are_refused(tmp_path):
    config = {"format": 1, "model": {"kind": "dit", "image_size": 8, "width": 64, "depth": 1, "heads": 2},
              "process": {"path": "condot", "prediction": "velocity", "floor": 0.05}}
    weights.save(tmp_path / "plain", random_arrays(build(config["model"])), config, dtype=mx.float32)
    file = convert.write_weights(convert.read(tmp_path / "plain"), tmp_path / "q", quantise=8)
    arrays, made = weights.read_arrays(file), weights.read_config(file)
    arrays["head_film.weight"] = arrays["head_film.weight"].astype(mx.float32)
    weights.write_arrays(file, arrays, made)
    refused("head_film.weight has numbers of type float32 instead of uint32", weights.load, tmp_path / "q")
    weights.write_arrays(file, arrays, made | {"quantization": {"bits": 5, "group_size": 32}})
    refused("4 or 8 bits", weights.load, tmp_path / "q")
    weights.write_arrays(file, arrays, made | {"quantization": {"width": 5}})
    refused("describes no network", weights.load, tmp_path / "q")


def test_where_nothing_can_be_quantised(tmp_path):
    source = convert.read(folder_of(tmp_path / "ours", "kl-vae"))
    refused("no layer that MLX can quantise", convert.write_weights, source, tmp_path / "q", quantise=8)
    assert not (tmp_path / "q").exists()


def test_training_does_not_start_from_quantised_weights(tmp_path):
    from mlxflow.training.distillation import settled
    from mlxflow.training.trainer import initial_weights

    config = {"format": 1, "model": {"kind": "dit", "image_size": 8, "width": 64, "depth": 1, "heads": 2},
              "process": {"path": "condot", "prediction": "velocity", "floor": 0.05}}
    weights.save(tmp_path / "plain", random_arrays(build(config["model"])), config)
    convert.write_weights(convert.read(tmp_path / "plain"), tmp_path / "q", quantise=8)
    refused("is quantised: give the weights that it was made of", settled, {"teacher": str(tmp_path / "q")})

    arrays = {"stem.weight": mx.zeros((2, 2)), "stem.scales": mx.zeros((2, 1))}
    weights.write_arrays(tmp_path / "a.safetensors", arrays)
    refused("is quantised, which cannot be trained", initial_weights, tmp_path / "a.safetensors", {})


# A latent model takes its autoencoder along

def test_the_autoencoder_goes_along(tmp_path):
    folder_of(tmp_path / "auto", "kl-vae")
    file = tmp_path / "auto" / "model.safetensors"
    config, network, arrays = model()
    config["autoencoder"] = {"sha256": weights.file_sha256(file), "scale": 2.0}
    weights.save(tmp_path / "latent", arrays, config, autoencoder=file, dtype=mx.float32)
    written = convert.write_torch(convert.read(tmp_path / "latent"), tmp_path / "a.pt")
    refused("The autoencoder of .* is missing", convert.read, written)
    source = convert.read(tmp_path / "a.pt", like=tmp_path / "latent")
    convert.write_weights(source, tmp_path / "back")
    assert weights.load(tmp_path / "back").autoencoder_path == tmp_path / "back" / "autoencoder.safetensors"
