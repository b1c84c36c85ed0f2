import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import PATHS, CondOT, over, path_by_name
from mlxflow.flow.solvers import DOPRI, DOPRI_ERROR, GRIDS, TABLES, fresh_noise, grid, solve
from mlxflow.runtime import mx

from .gaussian import Gaussian

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
# A rotation that decays: the complex eigenvalues show errors of both sign and phase.
MATRIX = np.array([[-0.5, 3.0], [-3.0, -0.5]])


def linear(x, t):
    return x @ mx.array(MATRIX.T, dtype=x.dtype)


def linear_exact(x, span):
    c, s = math.cos(3 * span), math.sin(3 * span)
    return x @ (math.exp(-0.5 * span) * np.array([[c, s], [-s, c]])).T


def logistic(x, t):
    # logit(x) moves by sin(3 t) / 3.
    return over(wave(t), x) * x * (1 - x)


def wave(t):
    # cos from tan, since MLX's float64 cos has float32's accuracy.
    return (1 - mx.square(mx.tan(1.5 * t))) / (1 + mx.square(mx.tan(1.5 * t)))


def logistic_exact(x, span):
    moved = np.log(x / (1 - x)) + math.sin(3 * span) / 3
    return 1 / (1 + np.exp(-moved))


EQUATIONS = {"linear": (linear, linear_exact), "logistic": (logistic, logistic_exact)}
START = mx.array([[0.3, 0.8], [0.6, 0.1]], dtype=mx.float64)


def run(*args, **kwargs):
    for state in solve(*args, **kwargs):
        pass
    return state


def slope(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("backwards", [False, True])
def test_order_of_convergence(name, equation, backwards):
    velocity, exact = EQUATIONS[equation]
    expected = exact(np.array(START), 1.0)
    x, truth = (mx.array(expected, dtype=mx.float64), np.array(START)) if backwards else (START, expected)
    steps, errors = [32, 64, 128, 256], []
    for n in steps:
        times = grid("uniform", n)
        errors.append(
            np.abs(np.array(run(name, velocity, x, times[::-1] if backwards else times).x) - truth).max()
        )
    assert abs(slope(steps, errors) - ORDERS[name]) < 0.2, errors


@pytest.mark.parametrize("name", ORDERS)
def test_forwards_then_backwards_returns_to_the_start_at_the_solvers_order(name):
    steps, errors = [16, 32, 64, 128], []
    for n in steps:
        there = run(name, logistic, START, grid("uniform", n)).x
        back = run(name, logistic, there, grid("uniform", n)[::-1]).x
        errors.append(mx.abs(back - START).max().item())
    # Even orders return with one order more: the leading errors of both ways cancel.
    assert slope(steps, errors) > ORDERS[name] - 0.2 and errors[-1] < 0.01


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_dopri5_meets_its_tolerance_both_ways(equation, tolerance):
    velocity, exact = EQUATIONS[equation]
    there = run("dopri5", velocity, START, [0, 1], rtol=tolerance, atol=tolerance)
    assert np.abs(np.array(there.x) - exact(np.array(START), 1.0)).max() < 5 * tolerance
    back = run("dopri5", velocity, there.x, [1, 0], rtol=tolerance, atol=tolerance)
    assert mx.abs(back.x - START).max().item() < 10 * tolerance


def test_dopri5_pays_for_accuracy_with_calls_and_less_for_easy_fields():
    calls = [run("dopri5", linear, START, [0, 1], rtol=r, atol=r).nfe for r in (1e-3, 1e-6, 1e-9)]
    assert calls[0] < calls[1] < calls[2]
    assert run("dopri5", lambda x, t: mx.ones_like(x), START, [0, 1]).nfe <= 20


def test_dopri5_controls_the_worst_sample_not_the_mean():
    # One sample of 100 moves: a mean over the batch would take ten times its error.
    x = mx.concatenate([START[:1], mx.zeros((99, 2), dtype=mx.float64)])
    found = np.array(run("dopri5", linear, x, [0, 1], rtol=1e-7, atol=1e-7).x)[:1]
    alone = np.array(run("dopri5", linear, START[:1], [0, 1], rtol=1e-7, atol=1e-7).x)
    assert np.array_equal(found, alone)


def test_dopri5_rejects_steps_that_a_sudden_change_breaks():
    def sudden(x, t):
        return mx.where(over(t, x) > 0.7, 50.0, 0.1).astype(x.dtype) * mx.ones_like(x)

    found = run("dopri5", sudden, START, [0, 1], rtol=1e-6, atol=1e-6)
    assert mx.abs(found.x - START - (0.07 + 15)).max().item() < 1e-3


def test_dopri5_meets_every_time_of_the_grid_and_ends_at_its_step_limit():
    times = [0.0, 0.123, 0.5, 0.9, 1.0]
    seen = [s.t for s in solve("dopri5", linear, START, times)]
    assert set(times[1:]) <= set(seen) and seen == sorted(seen)
    with pytest.raises(MlxflowError, match="dopri5 took 3 steps and is only at t = 0"):
        run("dopri5", linear, START, [0, 1], rtol=1e-10, atol=1e-10, max_steps=3)
    with pytest.raises(MlxflowError, match="tolerances"):
        run("dopri5", linear, START, [0, 1], atol=0)


def test_the_tables_are_consistent():
    for table in (*TABLES.values(), DOPRI):
        assert math.isclose(sum(table.b), 1)
        assert all(math.isclose(sum(row), c, abs_tol=1e-12) for row, c in zip(table.A, table.c))
    assert math.isclose(sum(DOPRI_ERROR), 0, abs_tol=1e-15)
    fourth = np.array(DOPRI.b) - np.array(DOPRI_ERROR)
    # The embedded weights integrate t^0 ... t^3 exactly, the step's own t^0 ... t^4.
    for weights, order in ((DOPRI.b, 5), (fourth, 4)):
        for power in range(order):
            assert math.isclose(np.dot(weights, np.array(DOPRI.c) ** power), 1 / (power + 1), rel_tol=1e-12)


@pytest.mark.parametrize("name", [*TABLES, "dopri5", "sde"])
def test_nfe_is_the_number_of_calls_and_states_come_as_they_are_reached(name):
    calls = []

    def velocity(x, t):
        assert t.shape == (x.shape[0],) and (t == t[0]).all().item()
        calls.append(t[0].item())
        return -x

    settings = {"key": mx.random.key(0)} if name == "sde" else {}
    states = []
    for state in solve(name, velocity, START, [0, 0.25, 0.5, 1], **settings):
        assert state.nfe == len(calls)
        states.append(state)
    assert states[-1].t == 1 and all(0 <= t <= 1 for t in calls)
    per_step = {"euler": 1, "sde": 1, "midpoint": 2, "heun": 2, "rk4": 4}.get(name)
    assert per_step is None or len(calls) == 3 * per_step


@pytest.mark.parametrize("path", PATHS)
def test_gaussian_flow_map_is_met(path):
    true = Gaussian(path_by_name(path))
    x = true.path.start(mx.random.normal((6, 2, 2, 1), key=mx.random.key(1)).astype(mx.float64))
    found = run("dopri5", true.velocity, x, [0, 1], true.path, rtol=1e-9, atol=1e-9)
    assert mx.abs(found.x - true.flow(x, 0.0, 1.0)).max().item() < 1e-5


def test_the_estimate_of_the_data_is_where_the_velocity_points():
    x1 = mx.array([[0.5, -0.25], [0.1, 0.9]])
    path = CondOT()
    for state in solve(
        "euler",
        lambda x, t: path.velocity_from_data(x, x1, t),
        START.astype(mx.float32),
        grid("uniform", 10),
        path,
    ):
        assert mx.abs(state.x1_estimate - x1).max().item() < 1e-5
    assert mx.abs(state.x - x1).max().item() < 1e-5


@pytest.mark.parametrize("name", ["heun", "rk4", "dopri5", "midpoint", "euler"])
def test_euler_at_data_never_evaluates_there_and_lands_on_the_data(name):
    x1, path, seen = mx.array([[0.5, -0.25], [0.1, 0.9]]), CondOT(), []

    def velocity(x, t):
        seen.append(t.max().item())
        return path.velocity_from_data(x, x1, t, floor=0.005)

    found = run(name, velocity, START.astype(mx.float32), grid("uniform", 8), euler_at_data=True)
    assert max(seen) < 1 and found.t == 1
    assert mx.abs(found.x - x1).max().item() < (1e-5 if name != "dopri5" else 1e-3)


def test_without_euler_at_data_the_floor_leaves_noise_in_heun():
    x1, path = mx.array([[0.5, -0.25], [0.1, 0.9]]), CondOT()
    found = run(
        "heun", lambda x, t: path.velocity_from_data(x, x1, t), START.astype(mx.float32), grid("uniform", 8)
    )
    assert mx.abs(found.x - x1).max().item() > 0.02


@pytest.mark.parametrize("path", ["condot", "cosine"])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_the_sde_has_the_flows_distribution(path, noise):
    true = Gaussian(path_by_name(path), mean=0.4, std=0.5)
    n = 10_000
    x = mx.random.normal((n, 1), key=mx.random.key(2))
    found = np.array(
        run("sde", true.velocity, x, grid("uniform", 100), true.path, key=mx.random.key(3), noise=noise).x
    )
    # 100 Euler steps leave a bias of about 0.01; the standard error of mean and spread is 0.005.
    assert abs(found.mean() - 0.4) < 0.03 and abs(found.std() - 0.5) < 0.03
    # The noise does its work: where a sample ends no longer follows from where it began, as it does for the
    # ODE.
    assert np.corrcoef(found[:, 0], np.array(x)[:, 0])[0, 1] < (0.9 if noise < 1 else 0.5)


def test_the_sde_follows_from_its_key_and_without_noise_is_euler():
    times = grid("uniform", 10)
    euler = run("euler", linear, START, times).x
    none, first, again, other = (
        run("sde", linear, START, times, key=mx.random.key(k), noise=noise).x
        for k, noise in ((0, 0.0), (0, 1.0), (0, 1.0), (1, 1.0))
    )
    assert mx.array_equal(none, euler).item() and mx.array_equal(first, again).item()
    assert not mx.array_equal(first, other).item()


@pytest.mark.parametrize("kind", [mx.float32, mx.float16, mx.bfloat16])
def test_fresh_noise_is_standard_normal_in_the_type_of_the_state(kind):
    x = mx.zeros((100, 10, 20), kind)
    one, again, other = (fresh_noise(x, np.array([0, seed], np.uint32)) for seed in (5, 5, 6))
    assert one.dtype == kind and mx.array_equal(one, again).item()
    values, others = (np.array(a.astype(mx.float32), dtype=np.float64).ravel() for a in (one, other))
    # 20,000 numbers: standard errors of 0.007, 0.005 and, of the fourth moment, 0.07.
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.02 and abs((values**4).mean() - 3) < 0.3
    assert abs((values * others).mean()) < 0.03


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(GRIDS)), st.integers(1, 60))
def test_grids_rise_from_0_to_1(name, steps):
    times = grid(name, steps)
    assert len(times) == steps + 1 and times[0] == 0 and times[-1] == 1
    assert all(b > a for a, b in pairwise(times))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 10), st.integers(2, 40))
def test_the_shift_is_applied_once(shift, steps):
    # Peers shift in the schedule and again in the sampler: the solver must use the grid as it is given.
    seen = []
    times = grid("shifted", steps, shift=shift)
    run("euler", lambda x, t: seen.append(t[0].item()) or x, START, times)
    reverse = [1 - i / steps for i in range(steps)]
    assert np.allclose(seen, [1 - shift * u / (1 + (shift - 1) * u) for u in reverse], atol=1e-12)


def test_edm_grid_is_the_papers_noise_levels():
    n, low, high = 18, 0.002 ** (1 / 7), 80 ** (1 / 7)
    sigma = [(high + i / n * (low - high)) ** 7 for i in range(1, n)]
    assert np.allclose(grid("edm", n)[1:-1], 1 / (1 + np.array(sigma)))


def test_bad_input_gets_a_sentence():
    for message, name, times in (
        ("euler, midpoint, heun, rk4, dopri5, sde", "rk5", [0, 1]),
        ("between 0 and 1", "euler", [0, 1.5]),
        ("between 0 and 1", "euler", [0, math.nan]),
        ("two or more", "euler", [0]),
        ("rise or fall", "euler", [0, 0.5, 0.5, 1]),
        ("rise or fall", "heun", [0, 0.6, 0.5]),
    ):
        with pytest.raises(MlxflowError, match=message):
            run(name, linear, START, times)
    with pytest.raises(MlxflowError, match="noise to data only"):
        run("sde", linear, START, [1, 0], key=mx.random.key(0))
    with pytest.raises(MlxflowError, match="at least 1, not -3"):
        grid("uniform", -3)
    with pytest.raises(MlxflowError, match="no time grid 'karras'"):
        grid("karras", 3)
    with pytest.raises(MlxflowError, match="shift"):
        grid("shifted", 3, shift=0)


@pytest.mark.parametrize("name", ["euler", "rk4", "dopri5"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_state_stops_with_a_sentence(name, bad):
    with pytest.raises(MlxflowError, match="NaN or infinite at t = "):
        run(name, lambda x, t: mx.where(over(t, x) > 0.4, bad, x), START, grid("uniform", 10))
