import builtins
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.couplings import couple
from mlxflow.runtime import mx


def batch(seed, n=6, shape=(2, 2, 1)):
    keys = mx.random.split(mx.random.key(seed))
    return [mx.random.normal((n, *shape), key=k) for k in keys]


def cost(x0, x1):
    return float(((np.array(x0) - np.array(x1)) ** 2).sum())


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999))
def test_ot_is_the_best_of_all_permutations_and_moves_the_noise_only(seed):
    x0, x1 = batch(seed)
    noise, data = couple("ot", x0, x1)
    assert mx.array_equal(data, x1).item()
    assert sorted(np.array(noise).reshape(6, -1).tolist()) == sorted(np.array(x0).reshape(6, -1).tolist())
    best = min(cost(x0[mx.array(p)], x1) for p in permutations(range(6)))
    assert np.isclose(cost(noise, x1), best, rtol=1e-5)


def test_ot_makes_the_paths_shorter():
    x0, x1 = batch(0, n=128, shape=(2,))
    assert cost(*couple("ot", x0, x1)) < 0.3 * cost(x0, x1)


def test_independent_leaves_the_batch_alone_with_a_condition_too():
    x0, x1 = batch(1)
    noise, data = couple("independent", x0, x1, condition=mx.arange(6))
    assert noise is x0 and data is x1


def test_ot_refuses_a_condition_even_a_falsy_one():
    x0, x1 = batch(1, n=1)
    for condition in (mx.array([0]), 0, {}):
        with pytest.raises(MlxflowError, match="unconditional"):
            couple("ot", x0, x1, condition)


def test_bad_input_gets_a_sentence(monkeypatch):
    x0, x1 = batch(2)
    with pytest.raises(MlxflowError, match="independent, ot"):
        couple("sinkhorn", x0, x1)
    with pytest.raises(MlxflowError, match="one shape"):
        couple("ot", x0[:3], x1)
    real = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(MlxflowError, match=r"pip install 'mlxflow\[ot\]'"):
        couple("ot", x0, x1)
