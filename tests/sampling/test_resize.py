import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxflow.data.images import premultiply
from mlxflow.errors import MlxflowError
from mlxflow.sampling.output import on_background
from mlxflow.sampling.resize import SIZES, area, check_size, cubic, resized

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def disc(colour, size=64, hidden=(0, 255, 255)):
    """An anti-aliased disc of one colour; what is transparent hides another colour."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    alpha = np.clip(size * 0.35 - np.hypot(x, y) + 0.5, 0, 1)
    image = np.empty((size, size, 4), np.uint8)
    image[..., :3] = np.where(alpha[..., None] > 0, colour, hidden)
    image[..., 3] = np.rint(255 * alpha)
    return Image.fromarray(image)


@pytest.mark.parametrize("size", [s for s in SIZES if s != 64] + [32, 40])
@settings(max_examples=25, deadline=None)
@given(colour=COLOURS)
def test_edges_are_clean_on_black_and_on_white(size, colour):
    """On a ground of one value every pixel lies between the ground and the disc's colour: no fringe, no halo."""
    made = resized(disc(colour), size)
    for ground, value in (("black", 0), ("white", 255)):
        seen = np.asarray(on_background(made, ground)).astype(int)
        for channel, of_disc in enumerate(colour):
            low, high = sorted((value, of_disc))
            assert seen[..., channel].min() >= low - 1 and seen[..., channel].max() <= high + 1
        assert abs(seen[size // 2, size // 2] - colour).max() <= 1 and (seen[0, 0] == value).all()


def test_the_naive_way_would_fail_that_test():
    """Straight colours resampled: the hidden cyan bleeds into a red disc's edge."""
    pixels = np.asarray(disc((255, 0, 0))).astype(np.float32)
    naive = Image.fromarray(np.rint(cubic(cubic(pixels, 256).swapaxes(0, 1), 256).swapaxes(0, 1)).astype(np.uint8))
    assert np.asarray(on_background(naive, "black"))[..., 1].max() > 20


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_line_is_never_exceeded_and_a_constant_stays(count, times, seed):
    line = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)
    made = cubic(line, count * times)
    assert made.min() >= line.min() and made.max() <= line.max()
    assert np.allclose(cubic(np.full(count, 0.3, np.float32), count * times), 0.3)


def test_a_ramp_is_kept_and_an_average_is_the_average():
    ramp = np.arange(8, dtype=np.float32)
    assert np.allclose(cubic(ramp, 16)[4:-4], np.linspace(-0.25, 7.25, 16)[4:-4])
    assert np.allclose(area(ramp, 4), [0.5, 2.5, 4.5, 6.5])
    assert np.allclose(area(ramp, 3), [(0 + 1 + 2 * 2 / 3) * 3 / 8, 3.5, (7 + 6 + 5 * 2 / 3) * 3 / 8])


def test_down_again_is_nearly_what_it_was():
    image = disc((200, 100, 50))
    back = premultiply(np.asarray(resized(resized(image, 256), 64)))
    assert np.abs(back - premultiply(np.asarray(image))).mean() < 0.01


def test_the_own_size_is_the_same_picture_and_modes_stay():
    image = disc((1, 2, 3))
    assert resized(image, 64) is image
    assert resized(image.convert("RGB"), 128).mode == "RGB"
    assert resized(image, (128, 64)).size == (128, 64)


def test_sizes_are_a_few():
    assert check_size(256) == 256
    with pytest.raises(MlxflowError, match="64, 128, 256 or 512 pixels, not 100"):
        check_size(100)
