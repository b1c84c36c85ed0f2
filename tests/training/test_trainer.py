import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.training.start import start
from mlxflow.training.state import checkpoints
from mlxflow.weights import load, read_config, resolve
from tests.training.tiny import SETTINGS, pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


def arrays_of(checkpoint):
    return {f"{file.stem}/{name}": np.array(array) for file in checkpoint.glob("*.safetensors")
            for name, array in mx.load(str(file)).items()}


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_same_run(a, b):
    left, right = checkpoints(a)[-1], checkpoints(b)[-1]
    assert left.name == right.name
    left_arrays, right_arrays = arrays_of(left), arrays_of(right)
    assert left_arrays.keys() == right_arrays.keys() and len(left_arrays) > 100
    for name, array in left_arrays.items():
        np.testing.assert_array_equal(array, right_arrays[name], err_msg=name)
    assert losses(a) == losses(b)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(data, tmp_path, optimizer):
    flags = SETTINGS | {"optimizer": optimizer, "shift": 2, "scale": 0.1, "flip": 0.5}
    start(tmp_path / "whole", data=data, flags=flags | {"steps": 6})
    start(tmp_path / "parts", data=data, flags=flags | {"steps": 3})
    start(tmp_path / "parts", data=None, flags={"steps": 6}, resume=True)
    assert sorted(losses(tmp_path / "whole")) == [1, 2, 3, 4, 5, 6]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_frozen_parameters_stay_bit_for_bit_and_the_others_move(data, tmp_path):
    start(tmp_path / "run", data=data, flags=SETTINGS | {"steps": 2, "frozen": "text.", "checkpoint_every": 1})
    first, last = (mx.load(str(c / "model.safetensors")) for c in checkpoints(tmp_path / "run")[-2:])
    average = mx.load(str(checkpoints(tmp_path / "run")[-1] / "ema.safetensors"))
    for name, array in first.items():
        if name.startswith("text."):
            assert mx.array_equal(array, last[name]).item() and mx.array_equal(array, average[name]).item()
    moved = [n for n in first if n.startswith("unet.") and not mx.array_equal(first[n], last[n]).item()]
    assert len(moved) > 40
    with pytest.raises(MlxflowError, match="No parameter's name begins with 'words.'"):
        start(tmp_path / "other", data=data, flags=SETTINGS | {"frozen": "words."})


def test_a_run_inherits_only_what_it_is_told_to(data, tmp_path):
    start(tmp_path / "old", data=data, flags=SETTINGS | {"steps": 1, "checkpoint_every": 1})
    flags = SETTINGS | {"steps": 1, "seed": 5, "learning_rate": 1e-30, "weight_decay": 0.0}
    start(tmp_path / "new", data=data, flags=flags | {"inherit": "text."}, init=tmp_path / "old")
    start(tmp_path / "other", data=data, flags=flags)
    old, new, other = (mx.load(str(checkpoints(tmp_path / n)[-1] / f"{stem}.safetensors"))
                       for n, stem in (("old", "ema"), ("new", "model"), ("other", "model")))
    for name, array in new.items():
        source = old if name.startswith("text.") else other
        assert mx.allclose(array, source[name], atol=1e-7).item(), name
    with pytest.raises(MlxflowError, match="no parameter whose name begins with 'words.'"):
        start(tmp_path / "wrong", data=data, flags=flags | {"inherit": "words."}, init=tmp_path / "old")


def command(*arguments):
    return [sys.executable, "-m", "mlxflow", "train", *map(str, arguments)]


def flags_of(settings):
    return [f"--set={name}={json.dumps(value) if not isinstance(value, dict) else toml(value)}"
            for name, value in settings.items()]


def toml(table):
    return "{" + ", ".join(f"{k} = {toml(v) if isinstance(v, dict) else json.dumps(v)}" for k, v in table.items()) + "}"


def test_killed_in_the_middle_of_a_checkpoint_it_resumes_from_the_older_one(data, tmp_path):
    program = """
import os, signal, sys
import mlxflow.training.state as state
write = state.write_arrays
def kill_at_step_4(file, *rest):
    if "00000004" in str(file) and file.stem == "ema":
        file.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, *rest)
state.write_arrays = kill_at_step_4
sys.argv = ["mlxflow"] + sys.argv[1:]
from mlxflow.cli.main import main
main()
"""
    run = tmp_path / "killed"
    settings = SETTINGS | {"checkpoint_every": 2}
    start(tmp_path / "whole", data=data, flags=settings | {"steps": 6})
    died = subprocess.run([sys.executable, "-c", program, "train", "--data", str(data), "-o", str(run), "--steps", "6",
                           *flags_of(settings)], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [c.name for c in checkpoints(run)] == ["step-00000002"]
    assert list((run / "checkpoints").glob(".partial*"))
    start(run, data=None, flags={}, resume=True)
    assert_same_run(tmp_path / "whole", run)
    assert not list((run / "checkpoints").glob(".partial*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_writes_a_checkpoint_and_exits_0(data, tmp_path, number):
    run = tmp_path / "run"
    process = subprocess.Popen(command("--data", data, "-o", run, *flags_of(SETTINGS | {"checkpoint_every": 100000})),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "step" in process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (last,) = checkpoints(run)
    assert json.loads((last / "state.json").read_text())["step"] == max(losses(run))
    assert str(last) in out


@pytest.mark.parametrize("launcher", ["ranks", "mlx.launch"])
def test_two_ranks_share_the_batch_and_rank_0_writes(data, tmp_path, launcher):
    run = tmp_path / "run"
    arguments = ["--data", data, "-o", run, "--steps", "4", *flags_of(SETTINGS)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    if launcher == "ranks":
        line = command("--ranks", "2", *arguments)
    else:
        line = [str(Path(sys.executable).parent / "mlx.launch"), "-n", "2", *command(*arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    log = [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert [entry["images"] for entry in log] == [8, 16, 24, 32]
    assert done.stdout.count("step-00000004") == 1
    # One rank with the whole batch sees the same pictures and times; only its noise differs.
    start(tmp_path / "one", data=data, flags=SETTINGS | {"steps": 4})
    np.testing.assert_allclose(list(losses(run).values()), list(losses(tmp_path / "one").values()), rtol=0.2)


def test_micro_batches_equal_the_big_batch(data, tmp_path):
    for parts in (1, 2, 4):
        start(tmp_path / str(parts), data=data, flags=SETTINGS | {"accumulate": parts, "steps": 3})
    whole = arrays_of(checkpoints(tmp_path / "1")[-1])
    for parts in (2, 4):
        other = arrays_of(checkpoints(tmp_path / str(parts))[-1])
        for name in whole:
            if name.startswith("model/"):
                np.testing.assert_allclose(other[name], whole[name], atol=1e-5, err_msg=name)


def test_training_lowers_the_validation_loss_and_the_average_follows(data, tmp_path):
    run = tmp_path / "run"
    start(run, data=data, flags=SETTINGS | {"steps": 60, "validate_every": 20, "learning_rate": 3e-3})
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "val" in line]
    assert [line["step"] for line in validations] == [20, 40, 60]
    assert all(len(line["val"]["bins"]) == 10 and {"loss", "bins"} <= set(line["seen"]) for line in validations)
    assert validations[-1]["val"]["loss"] < 0.8 * validations[0]["val"]["loss"]
    final = arrays_of(checkpoints(run)[-1])
    assert any(np.abs(final[f"ema/{n[6:]}"] - a).max() > 1e-4 for n, a in final.items() if n.startswith("model/"))
    # Peers track an average and then ship the raw weights: a run is loaded by its average.
    for name, array in tree_flatten(load(run).network.parameters()):
        np.testing.assert_array_equal(array, final[f"ema/{name}"], err_msg=name)


def test_validation_is_the_same_whatever_the_run_does(data, tmp_path):
    seen = []
    for seed in (1, 2):
        run = tmp_path / str(seed)
        start(run, data=data, flags=SETTINGS | {"seed": seed, "steps": 1, "validate_every": 1, "learning_rate": 1e-12,
                                                "model": SETTINGS["model"]})
        seen.append([json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][-1]["val"]["loss"])
    # The output layer starts at zero, so both untrained networks say the same of the same noise and times.
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)


def test_a_loss_that_is_not_a_number_stops_and_names_the_last_good_checkpoint(data, tmp_path):
    flags = SETTINGS | {"checkpoint_every": 1, "learning_rate": 1e30, "warmup": 0, "steps": 20}
    with pytest.raises(MlxflowError, match=r"not a number.*step-0000000\d"):
        start(tmp_path / "run", data=data, flags=flags)
    for name, array in arrays_of(checkpoints(tmp_path / "run")[0]).items():
        assert np.isfinite(array).all(), name


def test_a_full_disk_leaves_the_older_checkpoint(data, tmp_path):
    run = tmp_path / "run"
    start(run, data=data, flags=SETTINGS | {"steps": 3})
    program = """
import resource, signal, sys
from pathlib import Path
from mlxflow.training.start import start
from mlxflow.errors import MlxflowError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the disk takes no more than this
try:
    start(Path(sys.argv[1]), data=None, flags={"steps": 6}, resume=True)
except MlxflowError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True)
    assert "step-00000003 is still valid" in done.stdout, done.stderr
    assert [c.name for c in checkpoints(run)] == ["step-00000003"]
    start(run, data=None, flags={"steps": 6}, resume=True)
    assert checkpoints(run)[-1].name == "step-00000006"


@pytest.mark.parametrize("full", ["log.jsonl", "samples"])
def test_a_disk_that_is_full_for_the_log_or_samples_ends_the_run_with_a_sentence(data, tmp_path, monkeypatch, full):
    run = tmp_path / "run"
    start(run, data=data, flags=SETTINGS | {"steps": 3})

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    if full == "samples":
        monkeypatch.setattr(Image.Image, "save", no_space)
    else:
        monkeypatch.setattr("mlxflow.training.trainer.open", no_space, raising=False)
    with pytest.raises(MlxflowError, match=f"{full}.*No space left on device; the last checkpoint is .*step-00000003"):
        start(run, data=None, flags={"steps": 6, "sample_every": 5, "checkpoint_every": 100}, resume=True)
    monkeypatch.undo()
    start(run, data=None, flags={"steps": 6}, resume=True)
    assert checkpoints(run)[-1].name == "step-00000006"


def test_only_the_newest_checkpoints_are_kept(data, tmp_path):
    start(tmp_path / "run", data=data, flags=SETTINGS | {"checkpoint_every": 1, "keep": 2, "steps": 5})
    assert [c.name for c in checkpoints(tmp_path / "run")] == ["step-00000004", "step-00000005"]


def test_minutes_and_epochs_end_a_run(data, tmp_path):
    begun = time.monotonic()
    start(tmp_path / "minutes", data=data, flags=SETTINGS | {"minutes": 0.03})
    assert checkpoints(tmp_path / "minutes") and time.monotonic() - begun >= 1.8
    start(tmp_path / "epochs", data=data, flags=SETTINGS | {"epochs": 1.0})
    assert checkpoints(tmp_path / "epochs")[-1].name == "step-00000003"  # 22 pictures, 8 a step


def test_init_takes_a_run_or_a_part_and_refuses_what_does_not_fit(data, tmp_path):
    start(tmp_path / "first", data=data, flags=SETTINGS | {"steps": 3})
    start(tmp_path / "second", data=data, flags=SETTINGS | {"steps": 1, "learning_rate": 1e-12}, init=tmp_path / "first")
    before, after = arrays_of(checkpoints(tmp_path / "first")[-1]), arrays_of(checkpoints(tmp_path / "second")[-1])
    for name in before:
        if name.startswith("ema/"):
            np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    part = {n[4:]: mx.array(a) for n, a in before.items() if n.startswith("ema/text.")}
    mx.save_safetensors(str(tmp_path / "part.safetensors"), part)
    start(tmp_path / "third", data=data, flags=SETTINGS | {"steps": 1, "learning_rate": 1e-12},
          init=tmp_path / "part.safetensors")
    third = arrays_of(checkpoints(tmp_path / "third")[-1])
    np.testing.assert_allclose(third["ema/text.project.weight"], before["ema/text.project.weight"], atol=1e-6)
    mx.save_safetensors(str(tmp_path / "wrong.safetensors"), {"text.elephant": mx.zeros(3)})
    with pytest.raises(MlxflowError, match="text.elephant"):
        start(tmp_path / "fourth", data=data, flags=SETTINGS | {"steps": 1}, init=tmp_path / "wrong.safetensors")


def test_the_sample_sheet_is_drawn_at_step_0_and_every_n(data, tmp_path):
    start(tmp_path / "run", data=data, flags=SETTINGS | {"steps": 4, "sample_every": 2})
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == [
        "step-00000000.png", "step-00000002.png", "step-00000004.png"]


def test_going_on_from_a_run_draws_anew(data, tmp_path):
    """With the seed of the first run its pictures would come again with the same noise, and be learnt by heart."""
    settings = {name: value for name, value in SETTINGS.items() if name != "seed"}
    start(tmp_path / "first", data=data, flags=settings | {"steps": 3})
    seen = read_config(resolve(tmp_path / "first"))["trained"]["images"]
    seeds = {}
    for name, flags in (("new", {}), ("same", {"seed": 0})):
        start(tmp_path / name, data=data, flags=settings | {"steps": 1} | flags, init=tmp_path / "first")
        seeds[name] = json.loads((tmp_path / name / "config.json").read_text())["train"]["seed"]
    assert seen > 0 and seeds == {"new": seen, "same": 0}
    assert losses(tmp_path / "new") != losses(tmp_path / "same")
