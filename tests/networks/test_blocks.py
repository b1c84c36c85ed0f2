"""The CPU's own forms equal MLX's, with their gradients; resampling and embeddings are what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.networks import blocks
from mlxflow.runtime import mx

WIDE = np.concatenate([np.linspace(-30, 30, 4001), [-1e4, -80.0, 0.0, 80.0, 1e4]]).astype(np.float32)


def random(*shape, seed=0):
    return mx.array(np.random.default_rng([*shape, seed]).standard_normal(shape).astype(np.float32))


def silu64(x):
    return x / (1 + np.exp(-np.clip(x, -700, 700)))


def test_rational_silu_and_its_gradient_are_silu_to_rounding():
    x = WIDE.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    (value,), (slope,) = mx.vjp(blocks.rational_silu, [mx.array(WIDE)], [mx.ones(WIDE.shape)])
    scale = np.maximum(1, np.abs(x))
    assert (np.abs(np.array(value) - silu64(x)) / scale).max() < 5e-7
    assert (np.abs(np.array(slope) - sigmoid * (1 + x * (1 - sigmoid))) / scale).max() < 5e-7


def test_polynomial_exp():
    x = np.linspace(-20, 0, 2001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(np.array(blocks.polynomial_exp(mx.array(x))) - exact).max() < 3e-7
    assert not np.array(blocks.polynomial_exp(mx.array([-80.0, -1000.0, blocks.CLOSED]))).any()


def test_polynomial_softmax_and_its_gradient_are_softmax():
    scores, cotangent = 5 * random(4, 7, 33), random(4, 7, 33, seed=1)
    (fast,), (fast_gradient,) = mx.vjp(blocks.polynomial_softmax, [scores], [cotangent])
    (exact,), (exact_gradient,) = mx.vjp(lambda s: mx.softmax(s, axis=-1, precise=True), [scores], [cotangent])
    assert np.allclose(np.array(fast), np.array(exact), atol=1e-6)
    assert np.allclose(np.array(fast_gradient), np.array(exact_gradient), atol=2e-6)
    assert np.allclose(np.array(fast).sum(-1), 1, atol=1e-5)


def test_attention_by_both_roads_and_closed_keys():
    q, k, v = random(2, 3, 5, 8), random(2, 3, 9, 8, seed=1), random(2, 3, 9, 8, seed=2)
    bias = mx.where(mx.arange(9) < 6, 0.0, blocks.CLOSED)[None, None, None]
    ours = blocks.attention(q, k, v, bias)
    theirs = mx.fast.scaled_dot_product_attention(q, k, v, scale=8**-0.5, mask=bias)
    assert np.allclose(np.array(ours), np.array(theirs.transpose(0, 2, 1, 3).reshape(2, 5, 24)), atol=1e-5)
    loud = mx.where(mx.arange(9)[:, None] < 6, v, 1e3)
    assert np.array_equal(np.array(blocks.attention(q, k, loud, bias)), np.array(ours))


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4), c=st.integers(1, 5), block=st.integers(1, 4))
def test_space_to_depth_is_undone_and_keeps_each_patch_together(batch, h, w, c, block):
    x = random(batch, h * block, w * block, c)
    deep = blocks.space_to_depth(x, block)
    assert np.array_equal(np.array(blocks.depth_to_space(deep, block)), np.array(x))
    corner = np.array(x)[0, -block:, -block:].reshape(-1)
    assert np.array_equal(np.array(deep)[0, -1, -1], corner)


def test_the_time_embedding_spans_its_scale():
    """t is scaled to 0-1000: neighbours differ by little, the ends by a lot (unscaled t would hardly move)."""
    near = blocks.timestep_embedding(mx.array([0.5, 0.5005]), 64)
    ends = np.array(blocks.timestep_embedding(mx.array([0.0, 1.0]), 64))
    assert near.shape == (2, 64)
    assert np.allclose(ends[0], [1] * 32 + [0] * 32)
    assert (np.abs(ends[0] - ends[1]) > 0.05).mean() > 0.5
    t = 0.3
    frequencies = 10_000.0 ** -(np.arange(32) / 32)
    angles = 1000 * t * frequencies
    assert np.allclose(np.array(blocks.timestep_embedding(mx.array([t]), 64))[0],
                       np.concatenate([np.cos(angles), np.sin(angles)]), atol=2e-4)


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(affine):
    norm = blocks.RMSNorm(16, affine=affine)
    x = 3 * random(5, 16)
    exact = np.array(x, dtype=np.float64)
    exact /= np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
    assert np.allclose(np.array(norm(x)), exact, atol=1e-5)
