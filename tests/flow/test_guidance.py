from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.guidance import autoguidance, classifier_free, optimal_scale
from mlxflow.flow.paths import over
from mlxflow.flow.solvers import at
from mlxflow.runtime import mx


class Prompt(NamedTuple):
    tokens: mx.array
    mask: mx.array


class Network:
    """A velocity that depends on x, t, each token and the mask, differently for each sample; it logs its
    batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, condition):
        self.batches.append(x.shape[0])
        told = (condition.tokens * condition.mask[..., None]).sum((1, 2))
        return mx.tanh(x * over(told + 0.3, x)) + over(t, x) * over(mx.sin(told), x)


def prompt(seed, batch, empty=False):
    tokens = mx.random.normal((batch, 3, 2), key=mx.random.key(seed))
    return Prompt(tokens, mx.array(np.tile([not empty, not empty, False], (batch, 1))))


X = mx.random.normal((4, 2, 2, 3), key=mx.random.key(9))
YES, NO = prompt(1, 4), prompt(2, 4, empty=True)


def branches(t, null=NO):
    return Network()(X, t, YES), Network()(X, t, null)


def same(a, b):
    return mx.array_equal(a, b).item()


def close(a, b):
    return mx.allclose(a, b, atol=1e-6).item()


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 8).filter(lambda w: w != 1), st.floats(0, 1))
def test_both_branches_come_from_one_call_and_are_not_mixed_up(scale, t):
    # Peers split the doubled batch the wrong way round, or interleaved.
    network, t = Network(), at(t, X)
    found = classifier_free(network, YES, NO, scale)(X, t)
    yes, no = branches(t)
    assert network.batches == [8]
    assert close(found, no + scale * (yes - no))


def test_scale_1_is_the_conditional_model_bit_for_bit_at_one_call_of_one_branch():
    network, t = Network(), at(0.3, X)
    assert same(classifier_free(network, YES, NO, 1.0, optimised=True)(X, t), branches(t)[0])
    assert network.batches == [4]


def test_scale_0_is_the_null_and_never_a_class_of_its_own():
    # A null that equals class 0, or zeros made up by the wrapper, would not give this.
    t = at(0.3, X)
    assert close(classifier_free(Network(), YES, NO, 0.0)(X, t), branches(t)[1])
    labels = mx.array([0, 1, 2, 0])

    def by_label(x, t, label):
        return over(label.astype(mx.float32) + 1, x) * mx.ones_like(x)

    found = classifier_free(by_label, labels, mx.array([10]), 3.0)(X, t)
    assert found[:, 0, 0, 0].tolist() == [11 + 3 * (c + 1 - 11) for c in (0, 1, 2, 0)]


def test_a_negative_prompt_takes_the_place_of_the_null():
    t, negative = at(0.6, X), prompt(7, 1)
    repeated = Prompt(*(mx.repeat(leaf, 4, axis=0) for leaf in negative))
    yes, no = branches(t, repeated)
    assert close(classifier_free(Network(), YES, negative, 2.5)(X, t), no + 2.5 * (yes - no))


def test_one_prompt_for_the_whole_batch():
    one, t = prompt(1, 1), at(0.6, X)
    whole = Prompt(*(mx.repeat(leaf, 4, axis=0) for leaf in one))
    for scale in (1.0, 3.0):
        assert same(
            classifier_free(Network(), one, NO, scale)(X, t),
            classifier_free(Network(), whole, NO, scale)(X, t),
        )


@pytest.mark.parametrize("t, guided", [(0.1, False), (0.2, True), (0.5, True), (0.8, True), (0.9, False)])
def test_the_interval_guides_inside_and_costs_one_branch_outside(t, guided):
    network, t = Network(), at(t, X)
    found = classifier_free(network, YES, NO, 3.0, interval=(0.2, 0.8))(X, t)
    assert network.batches == [8 if guided else 4]
    yes, no = branches(t)
    assert close(found, no + 3 * (yes - no)) if guided else same(found, yes)


def test_the_interval_is_per_sample_where_times_differ():
    t = mx.array([0.1, 0.3, 0.7, 0.9])
    yes, no = branches(t)
    expected = mx.where(over(mx.array([False, True, True, False]), X), no + 3 * (yes - no), yes)
    assert close(classifier_free(Network(), YES, NO, 3.0, interval=(0.2, 0.8))(X, t), expected)


def test_the_optimised_scale_is_the_best_one_for_each_sample():
    yes, no = branches(at(0.4, X))
    best = optimal_scale(no, yes)

    def misfit(s):
        return mx.square(yes - s * no).sum((1, 2, 3))

    assert best.shape == (4, 1, 1, 1)
    assert (misfit(best) < misfit(best + 0.01)).all().item() and (
        misfit(best) < misfit(best - 0.01)
    ).all().item()
    found = classifier_free(Network(), YES, NO, 3.0, optimised=True)(X, at(0.4, X))
    assert close(found, best * no + 3 * (yes - best * no))


def test_zero_init_waits_without_calling():
    network = Network()
    guided = classifier_free(network, YES, NO, 3.0, zero_until=0.05)
    assert mx.abs(guided(X, at(0.04, X))).max().item() == 0 and network.batches == []
    assert mx.abs(guided(X, at(0.05, X))).max().item() > 0 and network.batches == [8]


def test_autoguidance_moves_away_from_the_weak_model():
    calls = []

    def model(factor):
        return lambda x, t: calls.append(factor) or factor * x

    t = at(0.5, X)
    assert close(autoguidance(model(2.0), model(1.5), 3.0)(X, t), 1.5 * X + 3 * 0.5 * X)
    calls.clear()
    assert same(autoguidance(model(2.0), model(1.5), 1.0)(X, t), 2 * X)
    assert same(autoguidance(model(2.0), model(1.5), 3.0, interval=(0.6, 1.0))(X, t), 2 * X)
    assert calls == [2.0, 2.0]


def test_bad_input_gets_a_sentence():
    for message, wrong in (
        ("scale must be 0 or more", {"scale": -1.0}),
        ("scale must be", {"scale": float("nan")}),
        ("interval", {"scale": 2.0, "interval": (0.8, 0.2)}),
        ("interval", {"scale": 2.0, "interval": (0.0, 1.2)}),
    ):
        with pytest.raises(MlxflowError, match=message):
            classifier_free(Network(), YES, NO, **wrong)
    with pytest.raises(MlxflowError, match="scale must be"):
        autoguidance(lambda x, t: x, lambda x, t: x, -2.0)
