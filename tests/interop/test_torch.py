import mlx.nn as nn
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn_arrays
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow.interop.torch import axes, from_torch, to_torch
from mlxflow.networks import build
from mlxflow.runtime import mx

from tests.interop.networks import CONFIGS, Layers, bits


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(sorted(CONFIGS)), data=st.data())
def test_there_and_back_is_equal_to_the_bit_for_every_network(kind, data):
    # Any 32 bits: NaN with its payload, infinities, -0 and subnormal numbers included.
    network = build(CONFIGS[kind])
    pattern = data.draw(drawn_arrays(np.uint32, 64))
    arrays = {name: np.resize(np.roll(pattern, i), p.shape).view(np.float32)
              for i, (name, p) in enumerate(tree_flatten(network.parameters()))}
    there = to_torch(network, arrays)
    back = from_torch(network, there)
    assert back.keys() == there.keys() == arrays.keys()
    assert all(bits(back[name]) == bits(arrays[name]) and back[name].shape == arrays[name].shape for name in arrays)
    again = to_torch(network, back)
    assert all(bits(again[name]) == bits(there[name]) and again[name].shape == there[name].shape for name in arrays)


@pytest.mark.parametrize("kind", CONFIGS)
def test_exactly_the_convolutions_change(kind):
    network = build(CONFIGS[kind])
    modules = dict(network.named_modules())
    changed = axes(network).keys()
    assert changed == {f"{name}.weight" for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    arrays = dict(tree_flatten(network.parameters()))
    moved = to_torch(network, arrays)
    for name in arrays.keys() - changed:
        assert bits(moved[name]) == bits(arrays[name])


TWINS = {"line": (torch.nn.Conv1d(3, 3, 3), (2, 8, 3)), "plane.0": (torch.nn.Conv2d(3, 3, 3), (2, 8, 7, 3)),
         "plane.1": (torch.nn.Conv2d(6, 6, 3, groups=2), (2, 8, 7, 6)),
         "space": (torch.nn.Conv3d(3, 3, 3), (2, 5, 6, 7, 3)), "up_line": (torch.nn.ConvTranspose1d(3, 3, 3), (2, 8, 3)),
         "up.plane": (torch.nn.ConvTranspose2d(3, 3, 3), (2, 8, 7, 3)),
         "up_space": (torch.nn.ConvTranspose3d(3, 3, 3), (2, 5, 6, 7, 3)), "matrix": (torch.nn.Linear(3, 3), (2, 3))}


@pytest.mark.parametrize("name", TWINS)
def test_torchs_own_layer_computes_the_same_where_shapes_say_nothing(name):
    network = Layers()
    theirs, shape = TWINS[name]
    ours = dict(network.named_modules())[name]
    state = {n.removeprefix(f"{name}."): torch.tensor(a)
             for n, a in to_torch(network, dict(tree_flatten(network.parameters()))).items()
             if n.startswith(f"{name}.")}
    theirs.load_state_dict(state)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with torch.no_grad():
        want = theirs(torch.tensor(np.moveaxis(x, -1, 1) if len(shape) > 2 else x)).numpy()
    want = np.moveaxis(want, 1, -1) if len(shape) > 2 else want
    np.testing.assert_allclose(np.array(ours(mx.array(x))), want, atol=2e-6)
    # ... and the other way: the layer's own state gives the network that computes the same.
    back = from_torch(network, {f"{name}.{n}": p for n, p in theirs.state_dict().items()})
    assert all(bits(back[f"{name}.{n}"]) == bits(p) for n, p in tree_flatten(ours.parameters()))


def test_tables_and_bare_arrays_stay_as_they_are():
    network = Layers()
    moved = to_torch(network, dict(tree_flatten(network.parameters())))
    assert bits(moved["kernel"]) == bits(network.kernel) and bits(moved["table.weight"]) == bits(network.table.weight)


def test_a_convolution_alone():
    layer = nn.Conv2d(3, 3, 3)
    moved = to_torch(layer, {"weight": layer.weight})["weight"]
    assert moved.flags["C_CONTIGUOUS"] and np.array_equal(moved, np.array(layer.weight).transpose(0, 3, 1, 2))


def test_half_precision_is_kept_and_bfloat16_is_float32_in_numpy_without_loss():
    layer = nn.Conv2d(3, 3, 3)
    half = to_torch(layer, {"weight": layer.weight.astype(mx.float16)})["weight"]
    assert half.dtype == np.float16
    brain = layer.weight.astype(mx.bfloat16)
    moved = to_torch(layer, {"weight": brain})["weight"]
    assert moved.dtype == np.float32
    assert mx.array_equal(from_torch(layer, {"weight": moved})["weight"].astype(mx.bfloat16), brain)
    tensor = torch.tensor(moved).to(torch.bfloat16).requires_grad_()
    back = from_torch(layer, {"weight": tensor})["weight"]
    assert back.dtype == mx.bfloat16 and mx.array_equal(back, brain)


def test_names_and_axes_that_are_not_the_networks_are_passed_on():
    layer = nn.Conv2d(3, 3, 3)
    odd = {"weight": np.ones((3, 3), np.float32), "other": np.ones((1, 2, 3, 4), np.float32)}
    for moved in (to_torch(layer, odd), from_torch(layer, odd)):
        assert {n: tuple(a.shape) for n, a in moved.items()} == {"weight": (3, 3), "other": (1, 2, 3, 4)}


def test_gradients_move_like_their_parameters():
    network = build(CONFIGS["kl-vae"])
    theirs = torch.nn.Conv2d(3, 3, 3, padding=1)
    name = "encoder.conv_in"
    arrays = dict(tree_flatten(network.parameters()))
    theirs.load_state_dict({n: torch.tensor(to_torch(network, arrays)[f"{name}.{n}"]) for n in ("weight", "bias")})
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3), dtype=np.float32)

    def loss(arrays):
        network.update(tree_unflatten(list(arrays.items())))
        return mx.square(network.encoder.conv_in(mx.array(x))).sum()

    gradient = to_torch(network, {n: g for n, g in mx.grad(loss)(arrays).items() if n.startswith(name)})
    theirs(torch.tensor(x.transpose(0, 3, 1, 2))).square().sum().backward()
    for n, p in theirs.named_parameters():
        np.testing.assert_allclose(gradient[f"{name}.{n}"], p.grad.numpy(), rtol=1e-4, atol=1e-4)
