"""Eyes and mouths: cut out of a face, put into a thing."""

import numpy as np
from mlxflow.data.expressions import bare_disc, features, inner_square, with_features

YELLOW, DARK = (255, 213, 60), (60, 40, 10)


def face(*spots):
    """A yellow disc with dark 6x6 spots at (x, y)."""
    y, x = np.mgrid[:64, :64] - 31.5
    image = np.zeros((64, 64, 4), np.uint8)
    image[np.hypot(x, y) < 30] = (*YELLOW, 255)
    for left, top in spots:
        image[top:top + 6, left:left + 6, :3] = DARK
    return image


FACES = np.stack([face((18, 20), (40, 20)), face((18, 28), (40, 28), (29, 40)), face((29, 44)), face((20, 36)), face((40, 36))])


def test_the_bare_disc_has_no_features():
    disc = bare_disc(FACES)
    assert np.abs(disc[10:54, 20:44] - YELLOW).max() < 1


def test_features_are_cut_to_what_differs_from_the_disc():
    cut = features(FACES[0], bare_disc(FACES))
    assert cut.shape == (6, 28, 4)
    assert (cut[:, :6, 3] == 255).all() and (cut[:, 8:20, 3] == 0).all() and (cut[:, :6, :3] == DARK).all()


def test_a_face_without_features_gives_nothing():
    assert features(face(), bare_disc(FACES)).size == 0


def test_the_inner_square_is_the_largest_opaque_one():
    alpha = np.zeros((64, 64), np.uint8)
    assert inner_square(alpha) == (0, 0, 0)
    alpha[10:40, 5:55] = 255
    left, top, side = inner_square(alpha)
    assert side == 30 and top == 10 and 13 <= left <= 17  # in the middle of the 50 columns


def test_features_change_only_what_they_cover():
    thing = np.zeros((64, 64, 4), np.uint8)
    thing[8:56, 8:56] = (30, 120, 200, 255)
    drawn = with_features(thing, features(FACES[0], bare_disc(FACES)), inner_square(thing[..., 3]))
    assert np.array_equal(drawn[..., 3], thing[..., 3])
    changed = np.abs(drawn[..., :3].astype(int) - thing[..., :3]).max(-1) > 8
    assert 50 < changed.sum() < 900 and not changed[:8].any() and not changed[:, :8].any()
