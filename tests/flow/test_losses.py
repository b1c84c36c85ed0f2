import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.losses import by_time_bin, flow_matching, target, weight
from mlxflow.flow.paths import PATHS, CondOT, path_by_name
from mlxflow.flow.times import uniform
from mlxflow.runtime import mx

KINDS = ("data", "velocity", "noise")


def batch(seed, shape=(6, 3, 3, 2)):
    keys = mx.random.split(mx.random.key(seed), 4)
    x0, x1, output = (mx.random.normal(shape, key=k).astype(mx.float64) for k in keys[:3])
    t = 0.05 + 0.9 * mx.random.uniform(shape=shape[:1], key=keys[3]).astype(mx.float64)
    return output, x0, x1, t


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(PATHS)), st.sampled_from(KINDS), st.integers(0, 99), st.sampled_from([0.0, 0.05])
)
def test_every_prediction_has_the_loss_of_the_velocity_it_stands_for(name, kind, seed, contrast):
    path = path_by_name(name)
    output, x0, x1, t = batch(seed)
    x = path.sample(x0, x1, t)
    velocity = path.convert(x, output, t, kind, "velocity", floor=1e-9)
    found = flow_matching(output, kind, path, x0, x1, t, cap=None, contrast=contrast)
    axes = (1, 2, 3)
    other = path.target(mx.roll(x0, 1, 0), mx.roll(x1, 1, 0), t)
    expected = mx.square(velocity - path.target(x0, x1, t)).mean(axes) - contrast * mx.square(
        velocity - other
    ).mean(axes)
    assert np.allclose(np.array(found), np.array(expected), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_target_has_no_loss(kind):
    _, x0, x1, t = batch(3)
    assert flow_matching(target(kind, CondOT(), x0, x1, t), kind, CondOT(), x0, x1, t).max().item() < 1e-20


def test_the_capped_weight_of_data_prediction():
    t = mx.array([0.0, 0.5, 0.55, 0.6, 1.0])
    assert np.allclose(np.array(weight("data", CondOT(), t)), [1, 4, 1 / 0.45**2, 5, 5], rtol=1e-5)
    assert np.allclose(np.array(weight("velocity", CondOT(), t)), 1)
    assert np.allclose(
        np.array(weight("noise", CondOT(), t, 9.0)), [9, 4, 1 / 0.55**2, 1 / 0.6**2, 1], rtol=1e-5
    )


def test_contrast_rewards_distance_from_the_next_pair_only():
    output, x0, x1, t = batch(1)
    plain = flow_matching(output, "velocity", CondOT(), x0, x1, t)
    contrast = flow_matching(output, "velocity", CondOT(), x0, x1, t, contrast=0.05)
    away = mx.square(output - mx.roll(x1 - x0, 1, 0)).mean((1, 2, 3))
    assert np.allclose(np.array(plain - contrast), 0.05 * np.array(away))


def test_the_mean_velocity_minimises_the_loss():
    # For data that are one point, u = (x1 - x) / (1 - t): moving away from it must cost exactly the square.
    _, x0, _, t = batch(2)
    x1 = mx.broadcast_to(mx.array(0.3, dtype=mx.float64), x0.shape)
    best = CondOT().velocity_from_data(CondOT().sample(x0, x1, t), x1, t)
    moved = flow_matching(best + 0.1, "velocity", CondOT(), x0, x1, t)
    assert np.allclose(np.array(moved), 0.01)


def test_by_time_bin_adds_up():
    t = mx.array([0.0, 0.05, 0.1, 0.55, 0.999, 1.0])
    losses = mx.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    sums, counts = by_time_bin(losses, t)
    assert sums.tolist() == [3, 4, 0, 0, 0, 8, 0, 0, 0, 48]
    assert counts.tolist() == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]


def test_a_compiled_step_has_the_same_loss_and_new_times_for_each_key():
    # A step that captured its noise when it was compiled would repeat it: keys are arguments.
    _, x0, x1, _ = batch(4)
    x0, x1 = x0.astype(mx.float32), x1.astype(mx.float32)

    def step(key):
        t = uniform(key, 6)
        return flow_matching(CondOT().sample(x0, x1, t), "data", CondOT(), x0, x1, t, contrast=0.05)

    compiled = mx.compile(step)
    for k in (0, 1):
        assert np.allclose(np.array(step(mx.random.key(k))), np.array(compiled(mx.random.key(k))), atol=1e-5)
    assert not np.allclose(np.array(compiled(mx.random.key(0))), np.array(compiled(mx.random.key(1))))


def test_bad_input_gets_a_sentence():
    output, x0, x1, t = batch(5)
    with pytest.raises(MlxflowError, match="data, velocity or noise"):
        flow_matching(output, "score", CondOT(), x0, x1, t)
    with pytest.raises(MlxflowError, match="do not belong together"):
        flow_matching(output[:2], "data", CondOT(), x0, x1, t)
    with pytest.raises(MlxflowError, match="do not belong together"):
        flow_matching(output, "data", CondOT(), x0, x1, t[:1])
