"""Every network against its PyTorch twin: outputs of all modules, loss, gradients, training, sampling."""

import importlib
import pkgutil
from dataclasses import fields, is_dataclass

import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlxflow.networks
from mlxflow.networks import build, describe
from mlxflow.networks.blocks import Conv3x3
from mlxflow.parity import checks, errors, twins
from mlxflow.parity.inputs import batch, forward_inputs
from mlxflow.runtime import mx
from tests.parity.conftest import QUIET
from tests.parity.networks import CONFIGS

pytest.importorskip("torch")

EVERY = pytest.mark.parametrize("name", CONFIGS)
VELOCITY = [name for name in CONFIGS if "vae" not in name]
AUTOENCODERS = [name for name in CONFIGS if "vae" in name]
FEW_STEP = [name for name in CONFIGS if "few-step" in name]
PROCESSES = [{"path": path, "prediction": prediction, "floor": 0.05}
             for path in ("condot", "vp", "cosine", "ve") for prediction in ("data", "velocity", "noise")]


def network_classes() -> list[type]:
    """Every class in mlxflow/networks/ that is a network: those with a `kind`, by which weights name them."""
    found = set()
    for module in pkgutil.iter_modules(mlxflow.networks.__path__):
        content = vars(importlib.import_module(f"mlxflow.networks.{module.name}")).values()
        found |= {c for c in content if isinstance(c, type) and issubclass(c, nn.Module) and hasattr(c, "kind")}
    return sorted(found, key=lambda c: c.kind)


def agree(rows: list[errors.Row]) -> None:
    assert rows
    failed = [f"{r.stage}: max abs {r.absolute:.1e}, max rel {r.relative:.1e}, of {r.scale:.1e}"
              for r in rows if not r.ok]
    assert not failed, "\n".join(failed[:10])


@pytest.mark.parametrize("network", network_classes(), ids=lambda c: c.kind)
def test_every_network_has_a_twin_and_is_compared(network):
    assert network.kind in twins.load().KINDS, f"there is no twin of {network.kind} in tests/parity/twins"
    assert network.kind in {c["kind"] for c in CONFIGS.values()}, f"{network.kind} is not in tests/parity/networks.py"


def switches(config, prefix: str) -> set[tuple[str, bool]]:
    """Each field of a (nested) config that is a bool or a count that may be 0, and whether it is on."""
    found = set()
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found |= switches(value, f"{prefix}.{field.name}")
        elif isinstance(value, bool) or field.name in ("sketch", "classes", "pixel_width", "mlp_ratio", "directions"):
            found.add((f"{prefix}.{field.name}", value != 1 if field.name == "directions" else bool(value)))
    return found


def test_every_switch_of_a_config_is_compared_on():
    seen = set().union(*(switches(build(c).config, c["kind"]) for c in CONFIGS.values()))
    # The parts of Mamba that are DiT's, and of the label U-Net that are the U-Net's, are compared there.
    shared = {"mamba.few_step", "unet.few_step", "unet.sketch"}
    off = {name for name, on in seen if not on} - {name for name, on in seen if on} - shared
    assert not off, f"no config of tests/parity/networks.py turns on {', '.join(sorted(off))}"


@EVERY
def test_a_twin_has_the_networks_parameters_and_all_of_its_modules_are_compared(name, pair_of):
    pair = pair_of(name)
    named = {n: p.shape for n, p in tree_flatten(pair.network.parameters())}
    state = pair.arrays(pair.twin.state_dict())
    assert {n: a.shape for n, a in state.items()} == named
    made = batch(pair.network, 2, 0)
    step = checks.steps_of(made) if name in FEW_STEP else None
    ours, theirs = pair.forward(*forward_inputs(pair.network, made), step=step)
    assert ours.keys() <= theirs.keys()
    # Every parameter belongs to a module whose output is compared; Down's kernel is used by Down itself, and
    # what is the whole network's own is in its output.
    compared = {stage.split(" ")[0].removesuffix(".tokens") for stage in ours}
    owners = {n: n.rsplit(".", 1)[0] if "." in n else "" for n in named}
    silent = {owner for owner in owners.values() if owner and owner not in compared and "downsamplers" not in owner}
    assert not silent and any(stage.startswith("output") for stage in compared)


@EVERY
def test_no_stage_is_silent(name, pair_of):
    """A zero that is compared with a zero says nothing: with random weights every module has something to
    say.
    """
    pair = pair_of(name)
    _, theirs = pair.forward(*forward_inputs(pair.network, batch(pair.network, 4, 0)))
    silent = {stage for stage, value in theirs.items() if not np.abs(value).max() > 1e-3}
    # An unconditional U-Net is told nothing.
    assert not {stage for stage in silent if name != "unet-plain" or not stage.endswith("text_kv")}


@EVERY
def test_outputs_of_all_modules(name, pair_of):
    for section, rows in checks.forward(pair_of(name)).items():
        print(section)
        agree(rows)


@EVERY
def test_outputs_where_norms_see_small_numbers(name, pair_of):
    pair = pair_of(name, QUIET)
    agree(pair.compare(*forward_inputs(pair.network, batch(pair.network, 4, 0))))


def test_a_new_network_agrees_too(pair_of):
    """With its zero layers as they are: what is silent in one is silent in the other."""
    for name in ("sketch", "dit", "mamba"):
        pair = pair_of(name)
        before = checks.parameters(pair.network)
        pair.set(checks.parameters(build(describe(pair.network))))
        rows = pair.compare(*forward_inputs(pair.network, batch(pair.network, 2, 0)))
        pair.set(before)
        agree(rows)
        assert rows[-1].scale == 0 and rows[-1].stage.startswith("output")


def test_a_training_batch_goes_through_winograds_form_on_the_cpu(pair_of, monkeypatch):
    """So that the comparison at this batch is one of that form."""
    calls = []
    real = mlxflow.networks.blocks.winograd_conv3x3
    monkeypatch.setattr(mlxflow.networks.blocks, "winograd_conv3x3", lambda *a: calls.append(1) or real(*a))
    pair = pair_of("unet-plain")
    pair.forward(*forward_inputs(pair.network, batch(pair.network, Conv3x3.LEAST_BATCH, 0)))
    assert bool(calls) == (mx.default_device() == mx.Device(mx.cpu))


@EVERY
@pytest.mark.parametrize("count", [4, 16])
def test_loss_and_the_gradient_of_every_parameter(name, count, pair_of):
    pair = pair_of(name)
    rows = checks.gradients(pair, count)
    buffers = {"codebook", "counts", "sums"} if pair.kind == "vq-vae" else set()
    assert {r.stage for r in rows} == {"loss"} | (dict(tree_flatten(pair.network.parameters())).keys() - buffers)
    agree(rows)


@pytest.mark.parametrize("name", FEW_STEP)
def test_gradients_over_a_step(name, pair_of):
    rows = checks.step_gradients(pair_of(name))
    assert {r.scale > 1e-6 for r in rows if ".step." in f".{r.stage}"} == {True}
    agree(rows)


@pytest.mark.parametrize("contrast", [0.0, 0.05])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p['path']}-{p['prediction']}")
def test_the_loss_of_every_path_and_prediction(process, contrast, pair_of):
    """The loss alone: what follows from it by the chain rule is compared above."""
    pair = pair_of("dit")
    learning = checks.Learning(pair, process, contrast=contrast)
    made = batch(pair.network, 4, 0)
    arrays = map(mx.array, learning.arrays(made))
    weights = {n: mx.array(a) for n, a in checks.parameters(pair.network).items()}
    loss, _ = learning.objective.loss(weights, *arrays)
    agree([errors.row("loss", loss, learning.theirs(made).item(), errors.FORWARD)])


@EVERY
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_five_steps_with_clipping_and_an_average_of_the_weights(name, optimizer, pair_of):
    rows = checks.training(pair_of(name), optimizer)
    norms = [r.scale for r in rows if r.stage.startswith("gradient norm")]
    assert len(norms) == 5 and max(norms) > checks.CLIP  # it was clipped
    agree(rows)


def test_dead_codes_are_revived_alike(pair_of):
    """Some codes of the compared codebook are hardly used: five steps move them beside others."""
    pair = pair_of("vq-vae")
    counts = checks.parameters(pair.network)["counts"]
    assert 0 < (counts < 0.02 * counts.mean()).sum() < len(counts) / 2
    rows = {r.stage: r for r in checks.training(pair, "adamw")}
    assert rows["weight codebook"].ok and rows["weight codebook"].scale > 0.05


@EVERY
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_updates_by_the_same_gradients(name, optimizer, pair_of):
    agree(checks.updates(pair_of(name), optimizer))


@pytest.mark.parametrize("name", VELOCITY)
@pytest.mark.parametrize(("solver", "guidance"), [("euler", 1.0), ("heun", 3.0)])
def test_the_whole_trajectory(name, solver, guidance, pair_of):
    rows = checks.sampling(pair_of(name), solver, guidance, steps=4)
    assert len(rows) == 4
    agree(rows)


@pytest.mark.parametrize(("solver", "guidance"), [("euler", 3.0), ("heun", 1.0)])
def test_the_other_solvers_with_and_without_guidance(solver, guidance, pair_of):
    agree(checks.sampling(pair_of("sketch"), solver, guidance, steps=4))


def test_a_grid_whose_last_step_would_be_too_short(pair_of):
    """From some 40 steps on the whole grid is squeezed, so that the last step is as long as the floor."""
    agree(checks.sampling(pair_of("dit"), "heun", 3.0, steps=48))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p['path']}-{p['prediction']}")
def test_the_trajectory_of_every_path_and_prediction(process, pair_of):
    rows = checks.sampling(pair_of("dit"), "heun", 2.0, steps=4, process=process)
    # Pictures of networks that were never trained may be far from [-1, 1].
    agree([errors.Row(r.stage, r.absolute, r.relative, r.scale, errors.Tolerance(1e-4, 1e-4)) for r in rows])


@pytest.mark.parametrize("name", FEW_STEP)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_jumps_of_few_step_networks(name, steps, pair_of):
    agree(checks.sampling(pair_of(name), "shortcut", 1.0, steps))


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_pictures_of_latents(name, pair_of):
    agree(checks.pictures_of_latents(pair_of(name)))
