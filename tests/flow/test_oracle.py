import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.guidance import classifier_free
from mlxflow.flow.losses import by_time_bin, flow_matching
from mlxflow.flow.oracle import Oracle, floor
from mlxflow.flow.paths import PATHS, CondOT, path_by_name
from mlxflow.flow.solvers import at, grid, solve
from mlxflow.runtime import mx

POINTS = mx.array([[-1.0, -1.0], [-1.0, 1.0], [0.2, 0.4], [0.9, -0.3], [1.0, 1.0]])
WEIGHTS = mx.array([1.0, 2.0, 3.0, 1.5, 2.5])


def pictures(n=40, shape=(4, 4, 3), seed=0):
    return mx.clip(mx.random.normal(shape=(n, *shape), key=mx.random.key(seed)), -1, 1)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(PATHS)), st.floats(0.02, 0.98), st.integers(0, 99))
def test_posterior_and_velocity_are_the_textbook_sums(name, t, seed):
    path, oracle = path_by_name(name), Oracle(POINTS, path_by_name(name), WEIGHTS, floor=1e-9)
    x = path.start(mx.random.normal((6, 2), key=mx.random.key(seed)).astype(mx.float64))
    a, s = (c(mx.array(t, dtype=mx.float64)).item() for c in (path.a, path.s))
    points, weights, flat = np.array(POINTS, np.float64), np.array(WEIGHTS, np.float64), np.array(x)
    logits = np.log(weights) - ((flat[:, None] - a * points) ** 2).sum(2) / (2 * s**2)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    found = np.array(oracle.posterior(x, at(t, x)))
    assert np.allclose(found, p, atol=1e-6) and np.allclose(found.sum(1), 1, atol=1e-6)
    velocities = np.stack(
        [
            np.array(
                path.velocity_from_data(x, mx.broadcast_to(POINTS[i].astype(mx.float64), x.shape), t, 1e-9)
            )
            for i in range(5)
        ],
        axis=1,
    )
    expected = (p[:, :, None] * velocities).sum(1)
    assert np.allclose(
        np.array(oracle.velocity(x, at(t, x))), expected, atol=1e-5 * (1 + np.abs(velocities).max())
    )


@pytest.mark.parametrize("shape", [(2,), (64, 64, 4)])
def test_near_the_data_the_posterior_is_certain_finite_and_right(shape):
    images = pictures(20, shape)
    # Nearly equal pictures are where float32 would guess: 0 and 1 differ by 0.002 in one value.
    flat = np.array(images).reshape(20, -1)
    flat[1] = flat[0]
    flat[1, 0] += 0.002
    oracle = Oracle(mx.array(flat.reshape(20, *shape)))
    for t in (0.9, 0.999, 0.9999, 1.0):
        noise = mx.random.normal((20, *shape), key=mx.random.key(1))
        x = oracle.path.sample(noise, oracle.flat.reshape(20, *shape), t)
        p = oracle.posterior(x, at(t, x))
        assert mx.isfinite(oracle.velocity(x, at(t, x))).all().item()
        assert mx.allclose(p.sum(1), mx.array(1.0), atol=1e-5).item()
        if t >= 0.9999:
            assert (mx.argmax(p, axis=1) == mx.arange(20)).all().item()


@pytest.mark.parametrize(
    "solver, path",
    [("euler", "condot"), ("heun", "condot"), ("dopri5", "condot"), ("sde", "condot"), ("heun", "cosine")],
)
def test_the_ode_lands_on_images_as_often_as_they_are_drawn(solver, path):
    oracle = Oracle(POINTS, path_by_name(path), WEIGHTS)
    n = 2000
    x = oracle.path.start(mx.random.normal((n, 2), key=mx.random.key(0)))
    kind = {"key": mx.random.key(1)} if solver == "sde" else {}
    times = [0, 1] if solver == "dopri5" else grid("uniform", 60)
    for state in solve(solver, oracle.velocity, x, times, oracle.path, euler_at_data=True, **kind):
        pass
    found = oracle.nearest(state.x)
    # The cosine path's Euler step at the end is exact to its curvature only: (pi / 2)^2 h^2 / 2.
    assert found.distance.max().item() < (1e-3 if path == "condot" else 5e-3)
    share = np.bincount(np.array(found.index), minlength=5) / n
    expected = np.array(WEIGHTS) / WEIGHTS.sum().item()
    assert np.abs((share - expected) / np.sqrt(expected * (1 - expected) / n)).max() < 4.5


def z_scores(oracle, claimed, t, n=40_000):
    """How far the residual u_t(pair) - claimed(x_t) is from averaging to zero against functions of x_t, in
    its errors."""
    x0, x1, _ = oracle.draw(mx.random.key(3), n)
    x = oracle.path.sample(x0, x1, t)
    residual = np.array(oracle.path.target(x0, x1, t) - claimed.velocity(x, at(t, x)))
    x = np.array(x)
    tests = [np.ones(n), x[:, 0], x[:, 1], np.cos(2 * x[:, 0]), x[:, 0] * x[:, 1]]
    products = np.stack([residual[:, d] * f for f in tests for d in range(2)])
    return np.abs(products.mean(1) / (products.std(1) / math.sqrt(n)))


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("t", [0.2, 0.4, 0.6])
def test_single_pairs_average_to_the_oracle(name, t):
    oracle = Oracle(POINTS, path_by_name(name), WEIGHTS)
    assert z_scores(oracle, oracle, t).max() < 4.5


def test_the_average_tells_a_wrong_oracle():
    assert z_scores(Oracle(POINTS, CondOT(), WEIGHTS), Oracle(POINTS), 0.5).max() > 10


@pytest.mark.parametrize("kind", ["data", "velocity", "noise"])
@pytest.mark.parametrize("told", [False, True])
def test_the_loss_of_the_oracle_is_the_floor(kind, told):
    oracle, bins, n = Oracle(POINTS, CondOT(), WEIGHTS), 5, 20_000
    groups = mx.array([0, 0, 1, 1, 1])
    t = (mx.arange(n) + 0.5) / n
    x0, x1, index = oracle.draw(mx.random.key(5), n)
    allowed = groups[index][:, None] == groups[None] if told else None
    x = oracle.path.sample(x0, x1, t)
    output = oracle.path.convert(x, oracle.data(x, t, allowed), t, "data", kind, floor=1e-6)
    losses = flow_matching(output, kind, oracle.path, x0, x1, t)
    sums, counts = by_time_bin(losses, t, bins)
    squares, _ = by_time_bin(mx.square(losses), t, bins)
    mean = np.array(sums / counts)
    error = np.sqrt((np.array(squares / counts) - mean**2) / np.array(counts))
    claimed = floor(
        oracle,
        mx.random.key(6),
        prediction=kind,
        bins=bins,
        count=2000,
        batch=500,
        groups=groups if told else None,
    )
    both = np.hypot(error, np.array(claimed.standard_error))
    assert (np.abs(mean - np.array(claimed.loss)) < 4.5 * both + 1e-6).all()
    assert claimed.loss[1] > 0.01


def test_no_network_beats_the_floor():
    oracle = Oracle(POINTS)
    n = 20_000
    t, (x0, x1, _) = at(0.4, mx.zeros((n, 1))), oracle.draw(mx.random.key(5), n)
    x = oracle.path.sample(x0, x1, t)
    best = oracle.data(x, t)
    losses = [
        flow_matching(out, "data", oracle.path, x0, x1, t).mean().item()
        for out in (best, best + 0.1 * mx.sin(3 * x), 0.9 * best, mx.zeros_like(x))
    ]
    assert losses[0] == min(losses) and losses[1] > losses[0] + 1e-3


def test_a_condition_restricts_the_images_and_guidance_takes_it():
    oracle = Oracle(POINTS)
    allowed = mx.array([[True, True, False, False, False]] * 3)
    everything = mx.ones_like(allowed[:1])
    x = mx.random.normal((3, 2), key=mx.random.key(1))
    t = at(0.4, x)
    alone = Oracle(POINTS[:2]).velocity(x, t)
    assert mx.allclose(oracle.velocity(x, t, allowed), alone, atol=1e-5).item()
    assert mx.allclose(
        classifier_free(oracle.velocity, allowed, everything, 1.0)(x, t), alone, atol=1e-5
    ).item()
    null = oracle.velocity(x, t)
    assert mx.allclose(
        classifier_free(oracle.velocity, allowed, everything, 2.0)(x, t), 2 * alone - null, atol=1e-4
    ).item()


def test_copies_are_found():
    images = pictures()
    oracle = Oracle(images)
    noise = mx.random.normal(images[:3].shape, key=mx.random.key(2))
    found = oracle.nearest(mx.concatenate([images[5:8] + 0.01 * noise, mx.clip(noise, -1, 1)]))
    assert found.index[:3].tolist() == [5, 6, 7]
    assert np.allclose(
        np.array(found.distance[:3]), np.array(mx.sqrt(mx.square(0.01 * noise).mean((1, 2, 3)))), rtol=1e-4
    )
    assert found.ratio[:3].max().item() < 0.05 and found.ratio[3:].min().item() > 0.5


def test_the_floor_follows_from_its_key_and_vanishes_for_one_image():
    oracle = Oracle(pictures(1))
    alone = floor(oracle, mx.random.key(0), count=4)
    assert max(alone.loss) < 1e-12 and np.allclose(alone.images, 1)
    many = Oracle(pictures())
    first, again, other = (floor(many, mx.random.key(k), count=8, bins=4) for k in (0, 0, 1))
    assert first == again and first != other
    assert 20 < first.images[0] <= 40 and first.images[-1] == 1


def test_draws_pair_each_image_with_its_number():
    oracle = Oracle(POINTS, CondOT(), WEIGHTS)
    x0, x1, index = oracle.draw(mx.random.key(0), 5000)
    assert mx.array_equal(x1, POINTS[index]).item() and abs(x0.std().item() - 1) < 0.05
    share = np.bincount(np.array(index), minlength=5) / 5000
    assert np.abs(share - np.array(WEIGHTS) / 10).max() < 0.03


def test_bad_input_gets_a_sentence():
    oracle = Oracle(POINTS)
    with pytest.raises(MlxflowError, match="at least one image"):
        Oracle(mx.zeros((0, 2)))
    with pytest.raises(MlxflowError, match="positive weight"):
        Oracle(POINTS, CondOT(), mx.array([1.0, 0, 1, 1, 1]))
    with pytest.raises(MlxflowError, match="images are"):
        oracle.velocity(mx.zeros((3, 3)), mx.zeros(3))
    with pytest.raises(MlxflowError, match="allows no image"):
        oracle.velocity(mx.zeros((2, 2)), mx.zeros(2), mx.zeros((2, 5), dtype=mx.bool_))
    with pytest.raises(MlxflowError, match="prediction type 'score'"):
        floor(oracle, mx.random.key(0), prediction="score")
