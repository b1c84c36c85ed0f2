"""Recolouring: what changes and what stays."""

import numpy as np
import pytest

from mlxflow.data.recolour import COLOURS, RAINBOW, dominant_hue, far_from, is_gray, recolour
from tests.data.discs import disc


RED, GREEN = disc((210, 30, 40)), disc((40, 160, 60))


def test_the_dominant_hue_is_found_and_a_picture_of_many_hues_has_none():
    assert min(dominant_hue(RED), 360 - dominant_hue(RED)) < 15
    assert abs(dominant_hue(GREEN) - 130) < 20
    quarters = RED.copy()
    for i, rgb in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))):
        quarters[(i // 2) * 32:(i // 2 + 1) * 32, (i % 2) * 32:(i % 2 + 1) * 32] = (*rgb, 255)
    assert dominant_hue(quarters) is None
    assert dominant_hue(disc((128, 128, 128))) is None


@pytest.mark.parametrize("colour", [c for c, (hue, _, _) in COLOURS.items() if hue is not None])
def test_a_recoloured_picture_has_the_named_hue(colour):
    painted = recolour(RED, dominant_hue(RED), colour)
    hue = dominant_hue(painted)
    target = COLOURS[colour][0]
    assert hue is not None and abs((hue - target + 180) % 360 - 180) < 25


@pytest.mark.parametrize("colour,low,high", [("black", 0, 90), ("white", 215, 255), ("gray", 110, 190), ("silver", 150, 235)])
def test_colours_without_a_hue_have_the_named_brightness(colour, low, high):
    middle = recolour(RED, dominant_hue(RED), colour)[32, 32, :3].astype(int)
    assert low <= middle.mean() <= high and np.ptp(middle) < 40


def test_outline_and_transparency_stay():
    painted = recolour(RED, dominant_hue(RED), "blue")
    outline = (RED[..., :3] == 40).all(-1)
    assert np.abs(painted[outline].astype(int) - RED[outline]).max() <= 2
    assert np.array_equal(painted[..., 3], RED[..., 3])


def test_a_gray_thing_is_tinted_and_a_coloured_one_is_not_gray():
    gray = disc((128, 128, 128))
    assert is_gray(gray) and not is_gray(RED)
    for colour in ("pink", "blue"):
        hue = dominant_hue(recolour(gray, None, colour))
        assert hue is not None and abs((hue - COLOURS[colour][0] + 180) % 360 - 180) < 25


def test_a_rainbow_has_all_hues_from_left_to_right():
    painted = recolour(RED, dominant_hue(RED), RAINBOW)
    left, middle, right = (painted[32, x, :3].astype(int) for x in (10, 32, 53))
    assert left[0] == left.max() and middle[0] < middle[1:].max() and right[2] > right[1]


def test_nothing_is_recoloured_into_the_colour_that_it_has():
    assert "red" not in far_from(5.0) and "blue" in far_from(5.0)
    assert "gray" not in far_from(None) and "pink" in far_from(None)
