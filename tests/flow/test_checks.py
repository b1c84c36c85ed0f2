import pytest

from mlxflow.errors import MlxflowError
from mlxflow.flow.checks import sensitivity
from mlxflow.flow.paths import CondOT, over
from mlxflow.runtime import mx

X = mx.random.normal((6, 4, 4, 2), key=mx.random.key(0))
T = mx.array([0.1, 0.3, 0.5, 0.6, 0.8, 0.9])
TOKENS = {"tokens": mx.random.normal((6, 5), key=mx.random.key(1)), "mask": mx.ones((6, 5), dtype=mx.bool_)}


def network(x, t, condition):
    return mx.tanh(x + over(mx.sin(3 * t), x)) * over(condition["tokens"].mean(1), x)


def test_a_seeing_network_is_blind_to_nothing():
    found = sensitivity(network, X, T, TOKENS)
    assert found.blind_to == () and min(found) > 0.05


@pytest.mark.parametrize(
    "part, blind",
    [
        ("t", lambda x, t, c: network(x, mx.zeros_like(t), c)),
        ("x", lambda x, t, c: network(mx.zeros_like(x), t, c)),
        ("condition", lambda x, t, c: network(x, t, {"tokens": mx.ones_like(c["tokens"])})),
        (
            "condition",
            lambda x, t, c: network(x, t, {"tokens": mx.ones_like(c["tokens"]) + 1e-5 * c["tokens"]}),
        ),
    ],
)
def test_a_network_made_blind_on_purpose_is_named(part, blind):
    assert sensitivity(blind, X, T, TOKENS).blind_to == (part,)


def test_a_network_of_zeros_sees_nothing():
    assert sensitivity(lambda x, t, c: mx.zeros_like(x), X, T, TOKENS).blind_to == ("t", "x", "condition")


def test_a_velocity_hides_what_the_network_ignores():
    # Why the docstring asks for the network's own output.
    def ignores_everything_but_the_text(x, t, c):
        return mx.zeros_like(x) + over(c["tokens"].mean(1), x)

    def velocity(x, t, c):
        return CondOT().velocity_from_data(x, ignores_everything_but_the_text(x, t, c), t)

    assert sensitivity(ignores_everything_but_the_text, X, T, TOKENS).blind_to == ("t", "x")
    assert sensitivity(velocity, X, T, TOKENS).blind_to == ()


def test_one_sample_is_not_enough():
    with pytest.raises(MlxflowError, match="at least 2"):
        sensitivity(network, X[:1], T[:1], {k: v[:1] for k, v in TOKENS.items()})
