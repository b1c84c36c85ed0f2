"""State dicts in every wrapping, and pickles that are no state dicts."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from mlxflow.errors import MlxflowError
from mlxflow.interop.checkpoint import config_in, read_pickle, state_of
from mlxflow.runtime import mx

PLAIN = {"stem.weight": torch.ones(2, 3), "head.bias": torch.zeros(2)}
MEAN = {"stem.weight": torch.full((2, 3), 0.5), "head.bias": torch.full((2,), 0.25)}


def under(prefix: str, state: dict) -> dict:
    return {f"{prefix}.{name}": array for name, array in state.items()}


def count(value, *shape):
    return torch.full(shape, value)


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 3), "step": count(7.0)}}, "param_groups": [{"lr": 1e-3}]}
PLAIN_CASES = {
    "a state dict": (PLAIN, ""),
    "under state_dict, with an optimizer": ({"state_dict": PLAIN, "optimizer": OPTIMIZER, "epoch": 3}, "state_dict"),
    "under model": ({"model": PLAIN, "step": 12}, "model"),
    "under MODEL in capitals": ({"Model": PLAIN}, "Model"),
    "twice": ({"model": {"state_dict": PLAIN}}, "model.state_dict"),
    "DataParallel": (under("module", PLAIN), ""),
    "Lightning": ({"state_dict": under("model", PLAIN), "pytorch-lightning_version": "2"}, "state_dict"),
    "torch.compile": (under("_orig_mod", PLAIN), ""),
    "torch.compile within, under DataParallel": ({"module.stem._orig_mod.weight": PLAIN["stem.weight"],
                                                  "module.head._orig_mod.bias": PLAIN["head.bias"]}, ""),
    "an average's name with no arrays": ({"model": PLAIN, "ema": {"decay": 0.999}}, "model"),
    "an average's name with a number": ({"model": PLAIN, "ema": 0.999}, "model"),
}
MEAN_CASES = {
    "ema beside model": ({"model": PLAIN, "ema": MEAN}, "ema"),
    "model after ema": ({"ema_model": MEAN, "state_dict": PLAIN}, "ema_model"),
    "params_ema": ({"params": PLAIN, "params_ema": MEAN}, "params_ema"),
    "ema with its decay and shadow": ({"model": PLAIN, "ema": {"decay": 0.9, "shadow": MEAN}}, "ema.shadow"),
    "ema within model": ({"model": {"net": PLAIN, "ema": MEAN}}, "model.ema"),
    "AveragedModel": ({"ema": under("module", MEAN) | {"n_averaged": count(9)}, "model": PLAIN}, "ema"),
    "one dict with prefixes": (under("model", PLAIN) | under("ema_model", MEAN), "ema_model"),
    "one dict, the plain ones bare": (PLAIN | under("ema", MEAN), "ema"),
    "an averaging wrapper": (under("online_model", PLAIN) | under("ema_model.module", MEAN)
                             | {"initted": count(1, 1), "step": count(5, 1)}, "ema_model"),
    "names without dots": ({"state_dict": under("model", PLAIN) | {"model_ema.stemweight": MEAN["stem.weight"],
                            "model_ema.headbias": MEAN["head.bias"], "model_ema.decay": count(0.9999),
                            "model_ema.num_updates": count(100)}}, "state_dict.model_ema"),
    "a list without names": ({"model": PLAIN, "ema": {"decay": 0.9, "shadow_params": list(MEAN.values())}}, "ema"),
    "a bare list": ({"model": PLAIN, "ema_params": tuple(MEAN.values())}, "ema_params"),
}


@pytest.mark.parametrize("case", [*PLAIN_CASES, *MEAN_CASES])
def test_the_state_dict_is_found_and_averages_come_first(case, tmp_path):
    averaged = case in MEAN_CASES
    tree, origin = (MEAN_CASES if averaged else PLAIN_CASES)[case]
    torch.save(tree, tmp_path / "a.pt")
    state = state_of(read_pickle(tmp_path / "a.pt"), set(PLAIN), tmp_path / "a.pt")
    want = MEAN if averaged else PLAIN
    assert state.arrays.keys() == want.keys() and all(torch.equal(state.arrays[n], want[n]) for n in want)
    assert (state.origin, state.averaged) == (origin, averaged)


def test_a_prefix_that_the_network_has_itself_stays():
    tree = under("model", PLAIN)
    assert state_of(tree, set(tree), None).arrays.keys() == tree.keys()


def test_names_that_fit_nothing_are_kept_for_the_list_of_what_is_wrong():
    tree = {"state_dict": under("ema_model", MEAN) | under("model", PLAIN) | {"critic.weight": torch.ones(1, 1)}}
    assert state_of(tree, set(PLAIN), None).arrays.keys() == {*PLAIN, "critic.weight"}
    partly = {"module.stem.weight": PLAIN["stem.weight"], "head.bias": PLAIN["head.bias"]}
    assert state_of(partly, set(PLAIN), None).arrays.keys() == partly.keys()


def test_mlx_arrays_of_a_safetensors_file_are_found_likewise():
    tree = {f"ema.{name}": mx.array(array.numpy()) for name, array in MEAN.items()}
    assert state_of(tree, set(PLAIN), None).arrays.keys() == PLAIN.keys()


@pytest.mark.parametrize("tree, says", [
    ([PLAIN], "no state dict, but a list"), ({}, "no arrays"), ({"epoch": 3, "model": {"lr": 1.0}}, "no arrays"),
    ({"model": PLAIN, "ema": [torch.ones(2, 3)]}, "list without names"),
    ({"model": PLAIN, "ema": [torch.zeros(2), torch.ones(2, 3)]}, "list without names"),
])
def test_files_without_weights_are_sentences(tree, says):
    with pytest.raises(MlxflowError, match=says):
        state_of(tree, set(PLAIN), "a.pt")


class Command:
    """A pickle that runs a command when it is read without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, zipped):
    marker, file = tmp_path / "owned", tmp_path / "evil.pt"
    torch.save({"state_dict": PLAIN, "extra": Command(marker)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(MlxflowError, match=r"more than tensors \((posix|nt).system, which is code and is not run\)"):
        read_pickle(file)
    assert not marker.exists()
    # The trap works: whoever reads it without care runs it.
    torch.load(file, weights_only=False)
    assert marker.exists()


def test_a_plain_pickle_of_a_command_is_refused_and_not_run(tmp_path):
    marker, file = tmp_path / "owned", tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(Command(marker)))
    with pytest.raises(MlxflowError, match="evil.pth"):
        read_pickle(file)
    assert not marker.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(MlxflowError, match=r"torch.nn.modules.linear.Linear.*save the model's state_dict\(\) alone"):
        read_pickle(tmp_path / "module.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(MlxflowError, match="script.pt"):
        read_pickle(tmp_path / "script.pt")


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "text", "folder", "missing"])
def test_damaged_files_are_sentences(tmp_path, damage):
    file = tmp_path / "a.pt"
    torch.save(PLAIN, file)
    content = file.read_bytes()
    if damage in ("folder", "missing"):
        file.unlink()
        file.mkdir() if damage == "folder" else None
    else:
        file.write_bytes({"cut": content[:len(content) // 2], "empty": b"", "text": b"weights",
                          "noise": np.random.default_rng(0).bytes(4000)}[damage])
    with pytest.raises(MlxflowError, match="a.pt") as caught:
        read_pickle(file)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_file_that_would_unfold_to_more_than_it_is_is_refused(tmp_path):
    torch.save({"a": torch.zeros(5_000_000)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, \
            zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(MlxflowError, match="compressed.*20,0"):
        read_pickle(tmp_path / "bomb.pt")


def test_configs_in_checkpoints():
    config = {"model": {"kind": "dit"}, "process": {}}
    assert config_in({"config": config}) == config == config_in({"config": '{"model": {"kind": "dit"}, "process": {}}'})
    for other in ([], {}, {"config": 3}, {"config": "{"}, {"config": {"model": "dit", "process": {}}},
                  {"config": {"model": {}}}):
        assert config_in(other) is None
