"""Winograd's form is the same convolution, forwards and backwards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.networks import winograd
from mlxflow.networks.blocks import Conv3x3
from mlxflow.runtime import mx

sizes = st.sampled_from([2, 4, 6, 8, 16])
counts = st.integers(1, 9)


def random(shape, seed):
    return mx.array(np.random.default_rng([*shape, seed]).standard_normal(shape).astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(batch=counts, h=sizes, w=sizes, inputs=counts, outputs=counts)
def test_output_and_both_gradients_are_those_of_the_direct_convolution(batch, h, w, inputs, outputs):
    x, weight = random((batch, h, w, inputs), 0), random((outputs, 3, 3, inputs), 1)
    cotangent = random((batch, h, w, outputs), 2)
    results = []
    for convolution in (lambda x, k: mx.conv2d(x, k, padding=1), winograd.winograd_conv3x3):
        (y,), gradients = mx.vjp(convolution, [x, weight], [cotangent])
        results.append([y, *gradients])
    for direct, fast in zip(*results):
        assert np.abs(np.array(direct - fast)).max() <= 3e-6 * max(1.0, float(mx.abs(direct).max()))


@pytest.mark.parametrize("transform, shapes", [
    (winograd.input_tiles, [(2, 6, 4, 3)]),
    (winograd.kernel_tiles, [(5, 3, 3, 3)]),
    (winograd.output_pixels, [(2, 3, 2, 5)] * 16),
])
def test_each_transform_has_its_own_transpose(transform, shapes):
    """<T a, b> = <a, T^T b> for a linear map and its transpose."""
    a = [random(shape, i) for i, shape in enumerate(shapes)]
    out = transform(*a)
    out = out if isinstance(out, (list, tuple)) else [out]
    b = [random(o.shape, 100 + i) for i, o in enumerate(out)]
    _, back = mx.vjp(transform, a, b)
    left = sum(float((o * c).sum()) for o, c in zip(out, b))
    right = sum(float((p * c).sum()) for p, c in zip(a, back))
    assert left == pytest.approx(right, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("batch, size", [(Conv3x3.LEAST_BATCH, 8), (1, 8), (Conv3x3.LEAST_BATCH, 7)])
def test_the_layer_is_one_function_whichever_form_it_takes(batch, size):
    mx.random.seed(0)
    layer = Conv3x3(6, 10)
    x = random((batch, size, size, 6), 3)
    direct = mx.conv2d(x, layer.weight, padding=1) + layer.bias
    assert np.allclose(np.array(layer(x)), np.array(direct), atol=2e-6)
    assert {name for name, _ in layer.parameters().items()} == {"weight", "bias"}
