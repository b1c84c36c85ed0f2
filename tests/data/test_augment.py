"""Augmentation moves what is there and invents nothing."""

import numpy as np
import pytest

from mlxflow.data import augment as aug


def tile(seed=0, size=16):
    image = np.zeros((size, size, 4), np.uint8)
    generator = np.random.default_rng(seed)
    image[4:12, 4:12] = generator.integers(1, 256, (8, 8, 4))
    image[4:12, 4:12, 3] = 255
    return image


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("caption", ["pointing left", "flag: Japan", "keycap 3", "three o’clock", "OK button",
                                     "Right arrow", "input latin letters"])
def test_pictures_with_a_side_or_with_writing_are_never_mirrored(caption):
    assert not aug.may_flip(caption)
    image = tile()
    assert np.array_equal(aug.augment(image, caption, rng(), flip=1.0), image)


@pytest.mark.parametrize("caption", ["bright red apple", "leftover pizza", "smiling cat"])
def test_other_pictures_may_be(caption):
    image = tile()
    assert np.array_equal(aug.augment(image, caption, rng(), flip=1.0), image[:, ::-1])


@pytest.mark.parametrize("dx, dy", [(0, 0), (3, 0), (-2, 1), (0, -4), (4, 4)])
def test_shift_moves_by_whole_pixels_and_fills_with_transparency(dx, dy):
    image = tile()
    moved = aug.shifted(image, dx, dy)
    assert np.array_equal(moved[4 + dy:12 + dy, 4 + dx:12 + dx], image[4:12, 4:12])
    assert moved[..., 3].sum() == image[..., 3].sum()


def test_every_shift_within_the_limit_comes_and_none_beyond():
    image, seen = tile(), set()
    for seed in range(200):
        ys, xs = np.nonzero(aug.augment(image, "x", rng(seed), shift=2)[..., 3])
        seen.add((xs.min() - 4, ys.min() - 4))
    assert seen == {(x, y) for x in range(-2, 3) for y in range(-2, 3)}


def test_scale_grows_and_shrinks_about_the_centre_without_bleeding_hidden_colours():
    image = tile()
    image[..., :3] = (200, 30, 30)
    image[image[..., 3] == 0, :3] = (0, 255, 0)  # hidden under transparency
    for factor in (0.75, 1.25):
        scaled = aug.scaled(image, factor)
        ys, xs = np.nonzero(scaled[..., 3] > 127)
        assert abs((xs.max() - xs.min() + 1) - 8 * factor) <= 1
        assert abs((xs.min() + xs.max()) / 2 - 7.5) <= 0.5 and abs((ys.min() + ys.max()) / 2 - 7.5) <= 0.5
        shown = scaled[scaled[..., 3] > 64]
        assert shown[:, 1].max() < 45


def test_the_same_generator_state_gives_the_same_picture_and_the_original_is_left_alone():
    image = tile()
    before = image.copy()
    a, b = (aug.augment(image, "x", rng(3), shift=3, scale=0.2, flip=0.5) for _ in range(2))
    assert np.array_equal(a, b) and np.array_equal(image, before)
    others = [aug.augment(image, "x", rng(seed), shift=3, scale=0.2, flip=0.5) for seed in range(4, 12)]
    assert any(not np.array_equal(a, other) for other in others)
