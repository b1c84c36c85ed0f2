import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.times import TIMES, draw, logit_normal, skewed, strata
from mlxflow.runtime import mx


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 64), st.integers(1, 4))
def test_each_stratum_of_all_ranks_is_hit_once(seed, batch, size):
    key = mx.random.key(seed)
    u = np.concatenate([np.array(strata(key, batch, rank=r, size=size)) for r in range(size)])
    n = batch * size
    gaps = np.diff(np.sort(u))
    assert np.allclose(gaps, 1 / n, atol=3e-6)
    assert np.array_equal(u, np.array(strata(key, n)))


def test_ranks_of_independent_draws_do_not_repeat_each_other():
    key = mx.random.key(0)
    parts = [np.array(strata(key, 16, stratified=False, rank=r, size=2)) for r in range(2)]
    assert np.array_equal(np.concatenate(parts), np.array(strata(key, 32, stratified=False)))
    assert len(set(np.concatenate(parts).tolist())) == 32


def quantile(name, u):
    z = NormalDist().inv_cdf(u)
    return {
        "uniform": u,
        "logit_normal": 1 / (1 + math.exp(-(0.5 + 0.8 * z))),
        "skewed": 1 / (1 + math.exp(-1.2 - 1.2 * NormalDist().inv_cdf(1 - u))),
    }[name]


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("stratified", [True, False])
def test_distributions(name, stratified):
    settings = {"mean": 0.5, "std": 0.8} if name == "logit_normal" else {}
    n = 20_000
    t = np.sort(np.array(draw(name, mx.random.key(5), n, stratified=stratified, **settings)))
    levels = (np.arange(1, 20)) / 20
    expected = [quantile(name, u) if name != "skewed" else quantile(name, 1 - u) for u in levels]
    # Kolmogorov-Smirnov: stratified draws are within one stratum, independent ones within 2.0 / sqrt(n).
    found = np.searchsorted(t, expected) / n
    assert np.abs(found - levels).max() < (2 / n if stratified else 2 / math.sqrt(n))


def test_skewed_is_log_normal_noise_seen_from_the_data():
    t = np.array(skewed(mx.random.key(1), 4096))
    log_sigma = np.log((1 - t) / t)
    assert abs(log_sigma.mean() + 1.2) < 0.01 and abs(log_sigma.std() - 1.2) < 0.01


@pytest.mark.parametrize("name", TIMES)
def test_times_stay_inside_and_follow_from_the_key_alone(name):
    settings = {} if name == "uniform" else {"std": 20.0}
    first, again, other = (np.array(draw(name, mx.random.key(k), 999, **settings)) for k in (0, 0, 1))
    assert first.min() > 0 and first.max() < 1
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_stratifying_cuts_the_variance_of_a_mean():
    means = {
        s: np.var([logit_normal(mx.random.key(k), 32, stratified=s).mean().item() for k in range(100)])
        for s in (True, False)
    }
    assert means[True] < 0.1 * means[False]


def test_bad_input_gets_a_sentence():
    with pytest.raises(MlxflowError, match="uniform, logit_normal, skewed"):
        draw("normal", mx.random.key(0), 4)
    with pytest.raises(MlxflowError, match="rank 2 of 2"):
        strata(mx.random.key(0), 4, rank=2, size=2)
