import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.likelihood import bits_per_dim, divergence, log_likelihood, log_normal, probes, products
from mlxflow.flow.paths import PATHS, CondOT, path_by_name
from mlxflow.runtime import mx

from .gaussian import Gaussian

SHAPES = [(3,), (2, 2, 1), (2, 1, 3)]


def normal(shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(mx.float64)


def matrix(size, seed=1):
    return np.random.default_rng(seed).normal(size=(size, size)) / math.sqrt(size)


def linear(A):
    """v(x) = A x over the flattened x: a field that mixes all the dimensions of an image."""

    def velocity(x, t):
        return (x.reshape(x.shape[0], -1) @ mx.array(A.T, dtype=x.dtype)).reshape(x.shape)

    return velocity


def test_log_normal_is_the_normal_density():
    x = normal((5, 2, 2))
    expected = [sum(math.log(NormalDist(0, 1.7).pdf(v)) for v in row) for row in np.array(x).reshape(5, -1)]
    assert np.allclose(np.array(log_normal(x, 1.7)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_exact_divergence_is_the_trace_for_any_shape(shape):
    # Peers sum over the last axis only, or over the batch.
    size = math.prod(shape)
    A, x = matrix(size), normal((4, *shape))

    def velocity(x, t):
        return linear(A)(mx.square(x), t)

    expected = (2 * np.diag(A)[None] * np.array(x).reshape(4, -1)).sum(1)
    assert np.allclose(np.array(divergence(velocity, x, mx.zeros(4))), expected, rtol=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(PATHS)), st.sampled_from(SHAPES), st.floats(-0.9, 0.9), st.floats(0.3, 2.0))
def test_the_likelihood_of_a_shifted_scaled_gaussian(name, shape, mean, std):
    path = path_by_name(name)
    true, a0 = Gaussian(path, mean, std), path.a(mx.array(0.0)).item()
    x = mean + std * normal((3, *shape))
    found = log_likelihood(true.velocity, x, path, rtol=1e-7, atol=1e-7)
    # Paths that hold some of the data at t = 0 (vp 0.7 %, ve all, under noise of 50) start from it, not from
    # noise alone: the exact flow of that start is the flow map's Jacobian with the start's density.
    x0 = true.flow(x, 1.0, 0.0)
    size, ratio = math.prod(shape), (true.spread(mx.array(1.0)) / true.spread(mx.array(0.0))).item()
    expected = log_normal(x0, path.s(mx.array(0.0)).item()) - size * math.log(ratio)
    assert np.allclose(np.array(found.log_p), np.array(expected), atol=1e-5)
    if a0 == 0:
        assert np.allclose(np.array(found.log_p), np.array(log_normal(x - mean, std)), atol=1e-5)
    assert mx.abs(found.x0 - x0).max().item() < 1e-5 * (1 + mx.abs(x0).max().item())
    assert found.standard_error.max().item() == 0


def test_the_likelihood_of_a_field_that_mixes_dimensions():
    # x1 = expm(A) x0, so x1 ~ N(0, expm(A) expm(A)^T).
    A = matrix(6)
    values, vectors = np.linalg.eig(A)
    flow = (vectors @ np.diag(np.exp(values)) @ np.linalg.inv(vectors)).real
    covariance = flow @ flow.T
    x = normal((4, 3, 2, 1))
    flat = np.array(x).reshape(4, 6)
    expected = -0.5 * np.einsum("bi,ij,bj->b", flat, np.linalg.inv(covariance), flat)
    expected -= 0.5 * np.linalg.slogdet(2 * math.pi * covariance)[1]
    found = log_likelihood(linear(A), x, rtol=1e-9, atol=1e-9)
    assert np.allclose(np.array(found.log_p), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_variance_falls_as_one_over_k(kind):
    size, n = 6, 8192
    A = matrix(size)
    S = (A + A.T) / 2
    # Variance of e^T A e: 2 sum_{i != j} S_ij^2 for signs, 2 |S|^2 for normals.
    single = 2 * ((S**2).sum() - (np.diag(S) ** 2).sum() * (kind == "rademacher"))
    x = mx.zeros((n, 3, 2, 1))
    for count in (1, 4, 16):
        columns = products(linear(A), x, mx.zeros(n), probes(mx.random.key(count), x, count, kind))[1]
        found = np.array(columns.mean(1))
        assert columns.shape == (n, count)
        assert abs(found.mean() - np.trace(A)) < 4 * math.sqrt(single / count / n)
        assert 0.9 < found.var() / (single / count) < 1.1


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_the_standard_error_is_the_scatter_of_the_estimate(kind):
    A, n = matrix(4), 500
    x = mx.broadcast_to(mx.array([[0.3, -0.5, 0.1, 0.8]]), (n, 4))
    exact = log_likelihood(linear(A), x[:1], solver="rk4", times=(1, 0.5, 0)).log_p.item()
    found = log_likelihood(
        linear(A), x, key=mx.random.key(2), probes_count=16, kind=kind, solver="rk4", times=(1, 0.5, 0)
    )
    scatter, claimed = np.array(found.log_p).std(), np.array(found.standard_error).mean()
    assert 0.85 < claimed / scatter < 1.15
    assert abs(np.array(found.log_p).mean() - exact) < 4 * scatter / math.sqrt(n)


def test_calls_are_counted_and_one_probe_has_no_standard_error():
    calls = []

    def velocity(x, t):
        calls.append(1)
        return -x

    x = normal((2, 2, 2))
    for settings_, per_evaluation in (({"key": mx.random.key(0), "probes_count": 3}, 3), ({}, 4)):
        calls.clear()
        found = log_likelihood(velocity, x, solver="midpoint", times=(1, 0.5, 0), **settings_)
        assert found.nfe == len(calls) == 4 * per_evaluation
    one = log_likelihood(velocity, x, key=mx.random.key(0), solver="euler", times=(1, 0))
    assert mx.isnan(one.standard_error).all().item()


def cell(value, width, mean, std):
    """-log2 of the probability that N(mean, std) puts on a cell."""
    dist = NormalDist(mean, std)
    return -math.log2(dist.cdf(value + width / 2) - dist.cdf(value - width / 2))


def test_bits_per_dim_are_those_of_the_cells_of_a_picture():
    true = Gaussian(CondOT(), mean=0.2, std=0.5)
    levels = np.array([[10, 200], [128, 90], [77, 255]])
    pixels = 2 * levels / 255 - 1
    found = bits_per_dim(
        true.velocity,
        mx.array(pixels.reshape(3, 2, 1, 1), dtype=mx.float64),
        key=mx.random.key(0),
        exact=True,
        rtol=1e-6,
        atol=1e-6,
    )
    expected = np.array([[cell(v, 2 / 255, 0.2, 0.5) for v in row] for row in pixels]).mean(1)
    assert np.allclose(np.array(found.each), expected, atol=0.02)
    assert math.isclose(found.mean, np.array(found.each).mean(), rel_tol=1e-6)
    assert math.isclose(found.standard_error, np.array(found.each).std(ddof=1) / math.sqrt(3), rel_tol=1e-5)


def test_more_dequantisation_samples_lower_the_bits_to_the_true_value():
    # Cells of side 1 and a narrow density: the bound is loose with one sample, and tight with many.
    true = Gaussian(CondOT(), mean=0.1, std=0.3)
    x = mx.zeros((400, 1), dtype=mx.float64)
    expected = cell(0.0, 1.0, 0.1, 0.3)
    bits = [
        bits_per_dim(
            true.velocity,
            x,
            key=mx.random.key(3),
            samples=k,
            levels=3,
            exact=True,
            solver="rk4",
            times=np.linspace(1, 0, 9),
        ).mean
        for k in (1, 4, 64)
    ]
    assert bits[0] > bits[1] + 0.1 > bits[2] + 0.1 and abs(bits[2] - expected) < 0.02


def test_bad_input_gets_a_sentence():
    with pytest.raises(MlxflowError, match="give probes"):
        log_likelihood(lambda x, t: -x, mx.zeros((1, 64, 64, 4)))
    with pytest.raises(MlxflowError, match="must end at 0"):
        log_likelihood(lambda x, t: -x, mx.zeros((1, 2)), times=(1.0, 0.1))
    with pytest.raises(MlxflowError, match="0 probes"):
        log_likelihood(lambda x, t: -x, mx.zeros((1, 2)), key=mx.random.key(0), probes_count=0)
    with pytest.raises(MlxflowError, match="rademacher or gaussian"):
        log_likelihood(lambda x, t: -x, mx.zeros((1, 2)), key=mx.random.key(0), kind="uniform")
    with pytest.raises(MlxflowError, match="samples"):
        bits_per_dim(lambda x, t: -x, mx.zeros((1, 2)), key=mx.random.key(0), samples=0)
