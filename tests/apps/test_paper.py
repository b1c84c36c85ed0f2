"""The two-dimensional data of apps/paper, what is measured of them, and the command as a whole on a few
steps."""

import math

import numpy as np
import pytest

from apps.paper import draw, report, toy
from apps.paper.toys import LOG_DENSITIES, SAMPLERS, energy_distance
from mlxflow.runtime import mx
from tests.data import sets


@pytest.fixture
def uncompiled():
    """A few steps do not repay the compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("name", SAMPLERS)
def test_densities_are_those_of_the_samples(name):
    side, n = 1.25, 150
    cells = (2 * (np.arange(n) + 0.5) / n - 1) * side
    points = np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2)
    p = np.exp(np.concatenate([LOG_DENSITIES[name](part) for part in np.array_split(points, 20)]))
    area = (2 * side / n) ** 2
    assert p.sum() * area == pytest.approx(1, abs=0.03)
    x = SAMPLERS[name](np.random.default_rng(0), 4000)
    assert x.shape == (4000, 2) and x.dtype == np.float32
    logs = LOG_DENSITIES[name](x)
    # Samples have the entropy of the density, and fill each quarter of the plane as it does.
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum() * area
    assert -logs.mean() == pytest.approx(entropy, abs=4 * logs.std() / math.sqrt(4000) + 0.03)
    for sign in ((1, 1), (1, -1), (-1, 1)):
        inside = ((points * sign) > 0).all(1)
        assert ((x * sign) > 0).all(1).mean() == pytest.approx(p[inside].sum() * area, abs=0.04)


def test_energy_distance_tells_a_shift():
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 1500, 2))
    assert energy_distance(a, b) < 0.1 and energy_distance(a, b + 0.5) > 0.2


def test_curvature_is_zero_for_straight_ways_at_constant_speed():
    t = np.linspace(0, 1, 201)[:, None, None]
    ends = np.array([[3.0, 4.0], [1.0, 0.0]])
    assert toy.curvature(t * ends) == pytest.approx(0, abs=1e-12)
    # x = t^2: the mean of (2 t - 1)^2 is 1 / 3, however straight the line in the plane.
    assert toy.curvature(t**2 * ends) == pytest.approx(1 / 3, abs=1e-3)


def test_panels_show_what_is_where():
    spot = np.array(draw.cloud(np.array([[0.625, 0.625]])).convert("L"))
    row, column = np.unravel_index(spot.argmin(), spot.shape)
    assert row == pytest.approx(draw.PANEL / 4, abs=2) and column == pytest.approx(3 * draw.PANEL / 4, abs=2)
    lattice = draw.lattice(10)
    logs = np.where((lattice > 0).all(1), 0.0, -np.inf).reshape(10, 10)
    corner = np.array(draw.heat(logs, 1.0))
    assert corner[5, -5].sum() < 150 and corner[-5, 5].sum() == 765 and corner[5, 5].sum() == 765


def test_one_command_makes_every_figure_and_table(tmp_path, monkeypatch, uncompiled):
    monkeypatch.setattr(report, "GRID", 16)
    data = sets.mnist(tmp_path / "mnist", count=80)
    monkeypatch.setattr(
        "sys.argv",
        ["report", "--quick", "--toy", "moons", "--data", str(data), "--out", str(tmp_path / "out")],
    )
    report.main()
    text = (tmp_path / "out" / "report.md").read_text()
    for name in ("trajectories.png", "samples.png", "density.png", "mnist.png"):
        assert f"({name})" in text and (tmp_path / "out" / name).stat().st_size < 300_000
    assert text.count("| moons | CondOT |") == 2 and text.count("| diffusion |") == 3
    assert "nan" not in text
