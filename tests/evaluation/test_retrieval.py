"""The distance forgives what it says and no more; ranks and intervals are those of their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxflow.data.emoji import embedded_tiles
from mlxflow.errors import MlxflowError
from mlxflow.evaluation.check import blurred, check_measure, moved, noised, turned
from mlxflow.evaluation.retrieval import VERSIONS, Gallery, operator, ranks, recall, share, unit, wilson


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """100 of the embedded emoji, far apart in the chart."""
    return np.stack([pixels for i, (_, pixels) in enumerate(embedded_tiles()) if i % 39 == 0])[:100]


@pytest.fixture(scope="module")
def gallery(tiles) -> Gallery:
    return Gallery(tiles)


def dot(x: float, y: float, size: int = 64, side: int = 4) -> np.ndarray:
    """A white square of `side` pixels at x, y."""
    pixels = np.zeros((1, size, size, 4), np.uint8)
    pixels[0, int(y) : int(y) + side, int(x) : int(x) + side] = 255
    return pixels


def found(gallery: Gallery, pictures: np.ndarray) -> float:
    return recall(ranks(gallery.distances(pictures), [[i] for i in range(len(pictures))]))["R@1"]["value"]


def test_real_pictures_are_at_distance_0_and_found(gallery, tiles):
    distances = gallery.distances(tiles)
    assert distances.shape == (len(tiles), len(tiles)) and np.diag(distances).max() < 2e-3
    assert found(gallery, tiles) == 100


def test_the_plain_distance_is_the_rms_of_cells(tiles):
    """With the other versions worse, d is the definition: averages over 2x2 pixels of premultiplied RGBA."""
    a, b = tiles[:1], tiles[40:41]
    cells = [unit(x).reshape(1, 32, 2, 32, 2, 4).mean((2, 4)) for x in (a, b)]
    plain = math.sqrt(np.square(cells[0] - cells[1]).mean())
    assert Gallery(b).distances(a)[0, 0] <= plain + 1e-6
    assert plain == pytest.approx(float(np.sqrt(np.square(np.array(Gallery(b).versions(a))[0, 12]).mean())), abs=1e-4)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -1), (2, 2), (-2, 1), (-1, -2)])
def test_a_shift_of_up_to_two_pixels_costs_nothing(shift):
    here, there = dot(30, 30), dot(30 + shift[0], 30 + shift[1])
    assert Gallery(there).distances(here)[0, 0] < 1e-3


def test_a_longer_shift_costs():
    assert Gallery(dot(35, 30)).distances(dot(30, 30))[0, 0] > 0.02


@pytest.mark.parametrize("change, least", [
    (lambda x: moved(x, shift=(1, 1)), 100), (lambda x: moved(x, shift=(-2, 2)), 100),
    (lambda x: moved(x, scale=0.9), 100), (lambda x: moved(x, scale=1.1), 99),
    (lambda x: blurred(x, 16), 98), (lambda x: noised(x, 0.5, 0), 100), (lambda x: turned(x, 5), 99),
], ids=["1 pixel", "2 pixels", "90 %", "110 %", "blur", "noise", "turn"])
def test_changed_pictures_are_still_found(gallery, tiles, change, least):
    changed = change(tiles)
    assert np.abs(changed.astype(int) - tiles).mean() > 1, "nothing was changed"
    assert found(gallery, changed) >= least


def test_what_is_no_picture_of_it_is_not_found(gallery, tiles):
    blank = np.zeros_like(tiles)
    assert found(gallery, blank) < 2
    assert found(gallery, np.roll(tiles, 1, axis=0)) == 0


def test_colour_and_transparency_count(tiles):
    red, blue, clear = (dot(20, 20, side=20) for _ in range(3))
    red[..., 1:3] = 0
    blue[..., :2] = 0
    clear[..., 3] //= 2
    distances = Gallery(np.concatenate([red, blue, clear])).distances(np.concatenate([red, blue, clear]))
    off = distances[~np.eye(3, dtype=bool)]
    assert np.diag(distances).max() < 1e-3 and off.min() > 0.05


def test_colours_under_transparent_pixels_do_not_count():
    a, b = dot(20, 20), dot(20, 20)
    b[b[..., 3] == 0] = (255, 0, 0, 0)
    assert Gallery(b).distances(a)[0, 0] < 1e-4


@given(st.floats(0.8, 1.25), st.floats(-3, 3), st.integers(3, 9))
@settings(max_examples=40, deadline=None)
def test_the_operator_is_the_average_of_what_lies_there(scale, shift, cells):
    """A line inside the frame keeps its sum times the scale, and moves its middle by the shift."""
    size = 27
    line = np.zeros(size, np.float32)
    line[11:16] = (1, 2, 3, 2, 1)
    made = operator(size, cells, scale, shift) @ line
    cell = size / cells
    assert made.sum() * cell == pytest.approx(scale * line.sum(), rel=1e-4)
    if cells == 9:
        fine = operator(size, 27 * 8, scale, shift) @ line
        middle = (fine * (np.arange(216) + 0.5)).sum() / fine.sum() / 8
        assert middle == pytest.approx(13.5 + shift, abs=1e-3)


def test_there_are_as_many_versions_as_documented(gallery, tiles):
    assert gallery.versions(tiles[:2]).shape == (2, 61, 32 * 32 * 4)
    assert sum(len(shifts) ** 2 for shifts in VERSIONS.values()) == 61


def test_small_pictures_have_a_cell_a_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 4), np.uint8)
    assert found(Gallery(pixels), pixels) == 100


@pytest.mark.parametrize("shape", [(0, 8, 8, 4), (2, 8, 9, 4), (2, 8, 8, 3), (8, 8, 4)])
def test_wrong_shapes_are_refused(shape, gallery):
    with pytest.raises(MlxflowError, match=r"\[N, S, S, 4\]"):
        Gallery(np.zeros(shape, np.uint8))
    with pytest.raises(MlxflowError, match="to compare with"):
        gallery.distances(np.zeros((1, 16, 16, 4), np.uint8))


def test_ranks_count_wrong_pictures_that_are_as_near():
    distances = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2], [0.3, 0.1, 0.2]])
    assert ranks(distances, [[0], [0], [0], [0, 2]]).tolist() == [0, 2, 2, 1]


def test_recall_counts_the_first_ones():
    found = recall(np.array([0, 0, 4, 5]))
    assert (found["n"], found["R@1"]["value"], found["R@5"]["value"]) == (4, 50.0, 75.0)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_ends_are_where_the_test_of_a_share_turns(count, part):
    """|hits/n - p| = z sqrt(p (1 - p) / n) at both ends, unless an end is 0 or 1."""
    hits = round(part * count)
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count + 1e-12 and hits / count - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(hits / count - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / count), abs=1e-9)


def test_known_intervals():
    assert wilson(0, 0) == (0, 1)
    assert share(81, 263) == {"value": 30.8, "low": 25.5, "high": 36.6}  # Newcombe 1998, table I, method 3


def test_the_check_of_the_measure_has_a_row_for_each_change(tiles):
    rows = dict(check_measure(tiles, limit=20))
    assert all(row["n"] == 20 for row in rows.values())
    assert rows["unchanged"]["R@1"]["value"] == 100
    assert rows["shifted by 2 pixels"]["R@1"]["value"] == 100
    assert rows["blurred to 6x6"]["R@1"]["value"] < 100
