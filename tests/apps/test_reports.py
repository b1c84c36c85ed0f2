"""The reports' commands, whole, on a few pictures and with tiny networks."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps import experiment
from apps.cifar10 import report as cifar10
from apps.mnist_architectures import compare
from apps.mnist_architectures.few import distance
from apps.mnist_latent import report as latent
from tests.data import sets

APPS = Path(__file__).parents[2] / "apps"
COMMON = "batch = 8\nwarmup = 2\nshift = 0\nprediction = 'velocity'\ntimes = 'uniform'\nlog_every = 1\n" \
         "sample_every = 1000\nvalidate_every = 2\ncheckpoint_every = 2\n"
DIGITS = "[model]\nkind = 'dit'\nimage_size = 32\nchannels = 1\npatch = 8\nwidth = 16\ndepth = 1\nheads = 2\n"
VAE = "[model]\nkind = '%s'\nimage_size = 32\nchannels = 1\nlatent = 2\nwidths = [4, 4, 4]\nlayers = 1\ngroups = 2\n%s"
NETWORKS = """
[laptop.U-Net]
kind = "unet"
patch = 8
widths = [8, 8]
blocks = [1, 1]
attention = [0, 1]
heads_dim = 8
embedding = 8
text_width = 8
pixel_width = 0
[laptop.DiT]
kind = "dit"
patch = 8
width = 16
depth = 1
heads = 2
[laptop.Mamba]
kind = "mamba"
patch = 8
width = 16
depth = 1
heads = 2
expand = 1.0
"""


@pytest.fixture
def digits(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return sets.mnist(tmp_path / "mnist", 60)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(module, {file: text}, *arguments) -> the report's text, from recipes of those texts."""

    def call(module, recipes, *arguments):
        here = tmp_path / "recipes"
        here.mkdir(exist_ok=True)
        for name, text in recipes.items():
            (here / name).write_text(text)
        monkeypatch.setattr(module, "HERE", here)
        monkeypatch.setattr(sys, "argv", ["report", "--out", str(tmp_path / "out"), *map(str, arguments)])
        module.main()
        return (tmp_path / "out" / "report.md").read_text()

    return call


def assert_figures(text, folder):
    names = [part.split(")")[0] for part in text.split("](")[1:]]
    assert names
    for name in names:
        assert np.array(Image.open(folder / name)).std() > 0


def test_the_comparison_gives_all_the_same_steps_then_the_same_time_and_is_done_once(digits, tmp_path, run, monkeypatch):
    recipes = {"laptop.toml": COMMON + "steps = 8\n" + DIGITS, "networks.toml": NETWORKS}
    arguments = ("--data", digits, "--count", 20, "--judge-steps", 3)
    # The speeds of so few steps are chance.
    speeds = {"U-Net": 30.0, "DiT": 20.0, "Mamba": 10.0}
    monkeypatch.setattr(compare, "speed", lambda folder: {compare.folder_name(n): v for n, v in speeds.items()}[folder.name])
    text = run(compare, recipes, *arguments)
    out = tmp_path / "out" / "mnist"
    assert_figures(text, tmp_path / "out")
    equal_steps, equal_time = text.split(", equal time")
    for name in compare.MAIN:
        row = next(line for line in equal_steps.splitlines() if line.startswith(f"| {name} "))
        lines = [line for line in experiment.log(out / compare.folder_name(name)) if "loss" in line and line["step"] <= 8]
        assert f"{np.mean([line['loss'] for line in lines]):.4f}" in row and len(lines) == 8
    for name, steps in {"U-Net": 24, "DiT": 16, "Mamba": 8}.items():
        row = next(line for line in equal_time.splitlines() if line.startswith(f"| {name} "))
        assert row.endswith(f"| {steps} |") and f"| {round(speeds[name])} |" in row
        assert experiment.position(out / compare.folder_name(name))["step"] == steps
    monkeypatch.setattr(experiment, "begin", None)  # it would fail if it were asked
    assert run(compare, recipes, *arguments) == text


def test_other_data_and_other_predictions_are_parts_of_the_same_report(digits, tmp_path, run):
    recipes = {"laptop.toml": COMMON + "steps = 4\n" + DIGITS, "networks.toml": NETWORKS}
    arguments = ("--data", digits, "--count", 20, "--judge-steps", 3)
    run(compare, recipes, *arguments, "--part", "predictions")
    text = run(compare, recipes, *arguments, "--part", "fashion", "--fashion", digits)
    assert "## Fashion-MNIST, equal steps" in text and "## What to predict" in text and "equal time" not in text
    assert_figures(text, tmp_path / "out")
    for kind, folder in {"velocity": "mnist/u-net", "data": "predictions/data", "noise": "predictions/noise"}.items():
        assert json.loads((tmp_path / "out" / folder / "config.json").read_text())["train"]["prediction"] == kind
    with pytest.raises(SystemExit, match="--fashion FOLDER"):
        run(compare, recipes, *arguments, "--part", "fashion")


def test_the_few_step_student_is_made_of_the_u_net_and_asked_once_a_step(digits, tmp_path, run, monkeypatch):
    recipes = {"laptop.toml": COMMON + "steps = 4\n" + DIGITS, "networks.toml": NETWORKS,
               "few.toml": "batch = 8\nwarmup = 2\nlog_every = 1\nguidance = 3.0\nsteps = 3\n"}
    arguments = ("--data", digits, "--count", 20, "--judge-steps", 3, "--part", "few")
    text = run(compare, recipes, *arguments)
    out = tmp_path / "out"
    assert_figures(text, out)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| teacher", "| student"))]
    calls = {row[0]: int(row[1]) for row in rows}
    # A guided step asks twice; the last of heun's goes straight to the data, with one call instead of two.
    assert [calls[f"teacher, {way}"] for way in ("1 step of euler", "4 steps of euler", "16 steps of heun")] == [2, 8, 62]
    assert [calls[f"student, {way} of shortcut"] for way in ("1 step", "2 steps", "4 steps")] == [1, 2, 4]
    assert dict((row[0], row[4]) for row in rows)["teacher, 16 steps of heun"] == "0.000"
    teacher = (out / "mnist" / "u-net-steps.safetensors").read_bytes()
    assert (out / "few" / "student" / "teacher.safetensors").read_bytes() == teacher
    monkeypatch.setattr(experiment, "begin", None)  # it would fail if it were asked
    assert run(compare, recipes, *arguments) == text


def test_the_distance_is_the_median_of_the_pictures_own():
    reference = np.zeros((3, 2, 2, 1), np.float32)
    images = reference + np.array([0.1, 0.5, 9], np.float32)[:, None, None, None]
    assert distance(images, reference) == pytest.approx(0.5) and distance(images, images) == 0


def test_the_latent_report_is_whole_and_goes_on_after_a_stop(digits, tmp_path, run, monkeypatch):
    small = DIGITS.replace("patch = 8", "patch = 2").replace("32", "8").replace("channels = 1", "channels = 2")
    recipes = {"kl.toml": COMMON + "steps = 3\n" + VAE % ("kl-vae", ""), "laptop.toml": COMMON + "steps = 8\n" + small,
               "vq.toml": COMMON + "steps = 3\n" + VAE % ("vq-vae", "codes = 8\n"), "pixel.toml": COMMON + "steps = 8\n" + DIGITS}
    arguments = ("--data", digits, "--count", 20, "--judge-steps", 3)
    begin = experiment.begin
    monkeypatch.setattr(latent, "speed", lambda folder: {"latent": 8.0, "pixel": 3.0}[folder.name])

    def stopped(run, *rest, **more):
        if run.name == "latent" and more["resume"]:
            raise KeyboardInterrupt
        begin(run, *rest, **more)

    monkeypatch.setattr(experiment, "begin", stopped)
    with pytest.raises(SystemExit) as end:
        run(latent, recipes, *arguments)
    found = (tmp_path / "out" / "report.md").read_text()
    assert end.value.code == 130 and "PSNR" in found and "dopri5" not in found
    kept = experiment.position(tmp_path / "out" / "latent")["step"]
    assert kept == 1  # one per cent, at least a step
    monkeypatch.setattr(experiment, "begin", begin)
    text = run(latent, recipes, *arguments)
    assert_figures(text, tmp_path / "out")
    assert "perplexity" in text and "dopri5" in text and "PSNR" in text
    assert "| pixel | 3 | 3 |" in text and experiment.position(tmp_path / "out" / "pixel")["step"] == 3


def test_the_report_on_photographs_says_what_it_was_made_with(tmp_path, run):
    data = sets.cifar_python(tmp_path / "cifar")
    model = DIGITS.replace("channels = 1", "channels = 3")
    text = run(cifar10, {"laptop.toml": COMMON + "steps = 3\n" + model}, "--data", data, "--note", "Made of noise.")
    assert_figures(text, tmp_path / "out")
    assert "Made of noise." in text and "| training pictures | 40 |" in text and "| steps | 3 of 8 |" in text
    shutil.rmtree(data)
    with pytest.raises(SystemExit, match="cifar"):
        run(cifar10, {}, "--data", data)
