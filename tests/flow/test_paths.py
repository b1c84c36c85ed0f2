import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import KINDS, PATHS, CondOT, path_by_name
from mlxflow.runtime import mx

names = st.sampled_from(
    [(n, {}) for n in PATHS] + [("condot", {"sigma_min": 0.1}), ("ve", {"sigma_max": 5.0})]
)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
interior = st.floats(0.02, 0.98)


def pair(shape, seed, dtype=mx.float64):
    keys = mx.random.split(mx.random.key(seed))
    return [mx.random.normal(shape, dtype=mx.float32, key=k).astype(dtype) for k in keys]


def close(a, b, rtol=1e-7):
    return (mx.abs(a - b).max() <= rtol * (1 + mx.abs(b).max())).item()


def predictions(path, x0, x1, t):
    """x_t and the four predictions that are true of this pair."""
    s = path.s(mx.array(t, dtype=x1.dtype))
    return path.sample(x0, x1, t), {
        "data": x1,
        "noise": x0,
        "velocity": path.target(x0, x1, t),
        "score": -x0 / s,
    }


@settings(max_examples=60, deadline=None)
@given(names, interior)
def test_coefficients_and_derivatives_belong_together(name, t):
    path, h = path_by_name(name[0], **name[1]), 1e-6
    for value, rate in ((path.a, path.da), (path.s, path.ds)):
        lower, upper = (value(mx.array(t + d, dtype=mx.float64)) for d in (-h, h))
        exact = rate(mx.array(t, dtype=mx.float64))
        assert close((upper - lower) / (2 * h), exact, 1e-6)


@settings(max_examples=40, deadline=None)
@given(names, shapes, interior, st.integers(0, 99))
def test_target_is_the_time_derivative_of_the_path(name, shape, t, seed):
    path, h = path_by_name(name[0], **name[1]), 1e-6
    x0, x1 = pair(shape, seed)
    slope = (path.sample(x0, x1, t + h) - path.sample(x0, x1, t - h)) / (2 * h)
    assert close(slope, path.target(x0, x1, t), 1e-6)


@settings(max_examples=40, deadline=None)
@given(names, shapes, interior, st.integers(0, 99))
def test_every_prediction_converts_into_every_other(name, shape, t, seed):
    path = path_by_name(name[0], **name[1])
    x, true = predictions(path, *pair(shape, seed), t)
    for source in KINDS:
        for to in KINDS:
            assert close(path.convert(x, true[source], t, source, to, floor=1e-9), true[to]), (source, to)


@pytest.mark.parametrize("name", PATHS)
def test_conversions_are_exact_in_float32_above_the_default_floor(name):
    path = path_by_name(name)
    for t in (0.25, 0.5, 0.75):
        x, true = predictions(path, *pair((3, 4, 4, 2), 1, mx.float32), t)
        for source in KINDS:
            for to in KINDS:
                assert close(path.convert(x, true[source], t, source, to), true[to], 2e-5), (t, source, to)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_conversions_are_finite_at_the_ends(name, t):
    x, value = pair((2, 3), 2, mx.float32)
    path = path_by_name(name)
    for source in KINDS:
        for to in KINDS:
            assert mx.isfinite(path.convert(x, value, t, source, to)).all().item(), (source, to)


def test_the_floor_is_the_divisor_of_data_prediction():
    x, x1 = pair((2, 3), 3)
    assert close(CondOT().velocity_from_data(x, x1, 0.99), (x1 - x) / 0.05)
    assert close(CondOT().velocity_from_data(x, x1, 0.99, floor=0.001), (x1 - x) / 0.01)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["vp", "cosine"]), st.floats(0, 1))
def test_variance_preserving_paths_preserve_variance(name, t):
    t, path = mx.array(t, dtype=mx.float64), path_by_name(name)
    assert close(mx.square(path.a(t)) + mx.square(path.s(t)), mx.array(1.0), 1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_paths_end_at_the_data_and_start_at_noise(name):
    path = path_by_name(name)
    x0, x1 = pair((2, 5), 4)
    assert close(path.sample(x0, x1, 1.0), x1, 0.05)
    assert close(path.sample(x0, mx.zeros_like(x1), 0.0), path.start(x0), 1e-12)
    assert (path.a(mx.array(0.0)) <= 0.01 * path.s(mx.array(0.0))).item() or name == "ve"


def test_closed_forms_of_the_paper():
    # Eq. 21 of Lipman et al. 2023, with sigma_min; eq. 19 for the variance-preserving path.
    x, x1 = pair((2, 3), 5)
    t, sigma = 0.3, 0.1
    expected = (x1 - (1 - sigma) * x) / (1 - (1 - sigma) * t)
    assert close(CondOT(sigma).velocity_from_data(x, x1, t), expected)
    path, time = path_by_name("vp"), mx.array(t, dtype=mx.float64)
    alpha, rate = path.a(time), path.da(time)
    expected = rate / (1 - mx.square(alpha)) * (x1 - alpha * x)
    assert close(path.velocity_from_data(x, x1, t), expected)


def test_a_time_for_each_of_the_batch():
    x0, x1 = pair((3, 2, 2, 1), 6)
    times = [0.1, 0.5, 0.8]
    together = CondOT().sample(x0, x1, mx.array(times, dtype=mx.float64))
    for i, t in enumerate(times):
        assert close(together[i], CondOT().sample(x0[i : i + 1], x1[i : i + 1], t)[0], 1e-12)


def test_bad_input_gets_a_sentence():
    x0, x1 = pair((3, 2), 7)
    with pytest.raises(MlxflowError, match="shape"):
        CondOT().sample(x0, x1, mx.array([0.1, 0.2]))
    for t in (-0.1, 1.1, float("nan")):
        with pytest.raises(MlxflowError, match="between 0 and 1"):
            CondOT().sample(x0, x1, t)
    with pytest.raises(MlxflowError, match="condot, vp, cosine, ve"):
        path_by_name("straight")
    with pytest.raises(MlxflowError, match="sigma_min"):
        path_by_name("condot", sigma=0.1)
    with pytest.raises(MlxflowError, match="prediction type 'flow'"):
        CondOT().convert(x0, x1, 0.5, "flow", "data")
