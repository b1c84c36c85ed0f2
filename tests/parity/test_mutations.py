"""The comparison can fail: twins that are broken in one small place are caught, at that place."""

import math

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from mlxflow.parity import checks, errors, twins
from mlxflow.parity.inputs import batch, forward_inputs
from tests.parity.conftest import QUIET

SILU, CONV1D, PAD, LARGER, ATTENTION = F.silu, F.conv1d, F.pad, F.interpolate, F.scaled_dot_product_attention
LOGSPACE = torch.logspace


def forward(pair) -> list[errors.Row]:
    return pair.compare(*forward_inputs(pair.network, batch(pair.network, 4, 0)))


def first_difference(rows: list[errors.Row]) -> str:
    found = errors.first_failure(rows)
    assert found is not None, f"not caught; the nearest was {errors.worst(rows)}"
    return found.stage


def part(name: str):
    """A module of the twins: twins.unet and so on."""
    return __import__(f"{twins.NAME}.{name}", fromlist=["x"])


def half_precision_silu(x):
    return SILU(x.half()).float()


def all_of(twin, kind) -> list[nn.Module]:
    return [module for module in twin.modules() if isinstance(module, kind)]


# name: (config, scale of the weights, what is patched: (where, attribute, value), the first stage that must
# differ)
NETWORKS = {
    "GELU's tanh form in the place of SiLU": (
        "text-unet", 1.0, lambda m: [(F, "silu", lambda x: F.gelu(x, approximate="tanh"))], "text.blocks.0.down"),
    "SiLU in half precision": (
        "dit", 1.0, lambda m: [(F, "silu", half_precision_silu)], "time.1"),
    "SiLU as x sigmoid(1.702 x)": (
        "kl-vae", 1.0, lambda m: [(F, "silu", lambda x: x * torch.sigmoid(1.702 * x))], "encoder.down_blocks.0.resnets.0.conv1"),
    "eps of RMSNorm 1e-5": (
        "text-unet", QUIET, lambda m: [(n, "eps", 1e-5) for n in all_of(m, nn.RMSNorm)], "text.blocks.0.norm1"),
    "the layers of a collage not mirrored": (
        "collage", 1.0, lambda m: [(part("text"), "moving", lambda s, t, n, f=part("text").moving: f(s.abs(), t, n))], "text.sketch (2)"),
    "eps of GroupNorm 1e-5": (
        "kl-vae", QUIET, lambda m: [(n, "eps", 1e-5) for n in all_of(m, nn.GroupNorm)],
        "encoder.down_blocks.0.resnets.0.norm1"),
    "the words' mask off by one": (
        "text-unet", 1.0, lambda m: [(part("text"), "closing", lambda mask, dtype: part("common").closing(mask.roll(1, 1), dtype))],
        "text.blocks.0.attention.out"),
    "the U-Net's mask off by one: the null key closed": (
        "text-unet", 1.0, lambda m: [(part("unet"), "closing", lambda mask, dtype: part("common").closing(mask.roll(-1, 1), dtype))],
        "unet.encoder.1.attention.0.out"),
    "closed keys that are only nearly closed": (
        "text-unet", 1.0, lambda m: [(part("text"), "closing", lambda mask, dtype: (~mask).to(dtype)[:, None, None] * -8)],
        "text.blocks.0.attention.out"),
    "attention without its scale": (
        "dit", 1.0, lambda m: [(F, "scaled_dot_product_attention", lambda q, k, v, **o: ATTENTION(q, k, v, scale=1.0, **o))],
        "blocks.0.mixer.out"),
    "sines before cosines": (
        "unet", 1.0, lambda m: [(part("unet"), "sinusoids", lambda t, d: part("common").sinusoids(t, d).roll(d // 2, 1))],
        "unet.time.0"),
    "times that are not scaled by 1000": (
        "dit", 1.0, lambda m: [(part("dit"), "sinusoids", lambda t, d: part("common").sinusoids(t / 1000, d))], "time.0"),
    "patches in torch's order of channels": (
        "unet", 1.0, lambda m: [(part("unet"), "fold", F.pixel_unshuffle)], "unet.stem"),
    "rows and columns of a square kernel swapped": (
        "unet", 1.0, lambda m: [(m.unet.encoder[0].residual[0].conv1, "weight",
                                 nn.Parameter(m.unet.encoder[0].residual[0].conv1.weight.detach().transpose(2, 3)))],
        "unet.encoder.0.residual.0.conv1"),
    "stride 2 with zeros on the first sides": (
        "kl-vae", 1.0, lambda m: [(F, "pad", lambda x, pads: PAD(x, (1, 0, 1, 0)))],
        "encoder.down_blocks.0.downsamplers.0"),
    "pictures enlarged smoothly": (
        "vq-vae", 1.0, lambda m: [(F, "interpolate", lambda x, scale_factor, mode: LARGER(x, scale_factor=2, mode="bilinear"))],
        "decoder.up_blocks.0.upsamplers.0.conv"),
    "the state-space convolution one token late": (
        "mamba", 1.0, lambda m: [(F, "conv1d", lambda x, *a, **o: CONV1D(x.roll(1, 2), *a, **o))],
        "blocks.0.mixer.directions.0.select"),
    "exp in the place of softplus": (
        "mamba-one", 1.0, lambda m: [(F, "softplus", torch.exp)],
        "blocks.0.mixer.directions.0"),
    "sinusoids of a step from 0.51 on": (
        "few-step", 1.0, lambda m: [(torch, "logspace", lambda low, *a, **o: LOGSPACE(low + 0.01, *a, **o))], "unet.step.up"),
}


@pytest.mark.parametrize("mutation", NETWORKS)
def test_a_broken_network_is_caught_at_the_place(mutation, pair_of, monkeypatch):
    name, scale, patches, stage = NETWORKS[mutation]
    pair = pair_of(name, scale)
    made = batch(pair.network, 4, 0)
    step = checks.steps_of(made) if name == "few-step" else None
    for target, attribute, value in patches(pair.twin):
        monkeypatch.setattr(target, attribute, value)
    assert first_difference(pair.compare(*forward_inputs(pair.network, made), step=step)) == stage


def optim():
    return part("optim")


class Coupled(torch.optim.Adam):
    """Adam, whose weight decay goes through the moments."""


def unclipped(parameters, limit):
    return nn.utils.get_total_norm([p.grad for p in parameters])


# name: (config, optimizer, patches)
TRAINING = {
    "decay through Adam's moments": ("unet-plain", "adamw", lambda: [(torch.optim, "AdamW", Coupled)]),
    "gradients that are not clipped": ("unet-plain", "adamw", lambda: [(nn.utils, "clip_grad_norm_", unclipped)]),
    "an average without warm-up": (
        "dit", "adamw", lambda: [(optim().Training, "count", property(lambda s: 10**6, lambda s, v: None))]),
    "one iteration of Newton-Schulz less": (
        "dit", "muon", lambda: [(optim(), "orthogonal", lambda m, n, real=optim().orthogonal: real(m, n - 1))]),
    "Muon's factor by the mean of rows and columns": (
        "dit", "muon", lambda: [(optim(), "max", lambda shape: sum(shape) / 2)]),
}


@pytest.mark.parametrize("mutation", TRAINING)
def test_a_broken_training_step_is_caught(mutation, pair_of, monkeypatch):
    name, optimizer, patches = TRAINING[mutation]
    for target, attribute, value in patches():
        monkeypatch.setattr(target, attribute, value, raising=False)
    stage = first_difference(checks.training(pair_of(name), optimizer))
    assert not stage.endswith("step 1")  # the first loss and gradient are as they should be
    # The same gradients find it in the weights themselves.
    assert first_difference(checks.updates(pair_of(name), optimizer)).startswith(("weight ", "average "))


def process():
    return twins.load().process


# name: (config, steps, patches)
SAMPLING = {
    "guidance one more than it says": (
        "text-unet", 4, lambda: [(process(), "guided", lambda v, c, n, s, real=process().guided: real(v, c, n, s + 1))]),
    "label 0 in the place of the null": (
        "dit", 4, lambda: [(twins.load().DiT, "null", lambda self, label: self.encode(label * 0))]),
    "equal steps": ("dit", 4, lambda: [(process(), "times", lambda n, floor: [i / n for i in range(n + 1)])]),
    "a divisor floored at 0.06": (
        "dit", 48, lambda: [(process().Path, "floor", property(lambda s: 0.06, lambda s, v: None))]),
}


@pytest.mark.parametrize("mutation", SAMPLING)
def test_a_broken_sampler_is_caught(mutation, pair_of, monkeypatch):
    name, steps, patches = SAMPLING[mutation]
    for target, attribute, value in patches():
        monkeypatch.setattr(target, attribute, value, raising=False)
    first_difference(checks.sampling(pair_of(name), "heun", 3.0, steps))


def test_a_loss_whose_cap_is_forgotten_is_caught(pair_of, monkeypatch):
    real = process().loss
    monkeypatch.setattr(process(), "loss", lambda *a: real(*a[:5], math.inf, *a[6:]))
    assert first_difference(checks.gradients(pair_of("dit"), 4)) == "loss"


def test_a_quantiser_without_its_straight_gradient_is_caught(pair_of, monkeypatch):
    """Outputs are the same; only gradients tell."""
    pair = pair_of("vq-vae")
    decoder = pair.twin.decoder
    monkeypatch.setattr(type(decoder), "forward", lambda self, z, real=type(decoder).forward: real(self, z.detach()))
    assert errors.first_failure(forward(pair)) is None
    assert first_difference(checks.gradients(pair, 4)).startswith("encoder.")
