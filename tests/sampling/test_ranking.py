"""Ranking: a picture that most of the others are like comes first."""

import numpy as np
import pytest

from mlxflow.data.images import premultiply
from mlxflow.sampling.ranking import best, scores

RED, BLUE, PINK = (255, 0, 0, 255), (0, 0, 255, 255), (255, 90, 90, 255)


def squares(*colours):
    made = np.zeros((len(colours), 8, 8, 4), np.uint8)
    made[:, 2:6, 2:6] = np.array(colours)[:, None, None]
    return made


def test_the_picture_that_most_are_like_is_first_and_the_stranger_last():
    assert best(squares(BLUE, RED, PINK, RED), 4) == [1, 3, 2, 0]
    pictures = np.zeros((4, 8, 8, 4), np.uint8)
    for picture, (x, y) in zip(pictures, ((0, 0), (4, 4), (3, 4), (4, 3))):
        picture[y : y + 3, x : x + 3] = RED
    assert best(pictures, 4)[0] == 1 and best(pictures, 4)[-1] == 0


def test_a_score_is_the_mean_distance_of_thumbnails():
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (5, 64, 64, 4), np.uint8)
    small = premultiply(pictures).reshape(5, 32, 2, 32, 2, 4).mean((2, 4), dtype=np.float64)
    apart = np.sqrt(np.square(small[:, None] - small[None]).mean((2, 3, 4)))
    assert scores(pictures) == pytest.approx(-apart.sum(1) / 4, rel=1e-5)
    # A picture that is wider than high would tell a swapped axis.
    assert scores(np.stack([pictures[0], pictures[0].swapaxes(0, 1)]))[0] < -0.1


def test_equal_pictures_keep_their_order_and_few_are_not_preferred():
    fit = scores(squares(RED, BLUE, RED, PINK))
    assert fit[0] == fit[2] and len(set(fit)) == 3
    assert best(squares(RED, BLUE, RED, PINK), 3) == [0, 2, 3]
    assert best(squares(BLUE, RED), 2) == [0, 1] and best(squares(RED, BLUE), 2) == [0, 1]
    assert scores(squares(RED)).tolist() == [0] and scores(squares(RED, RED, RED)).tolist() == [0, 0, 0]


def test_what_is_hidden_by_transparency_does_not_count():
    pictures = squares(RED, RED, PINK)
    pictures[0, 0, 0] = (0, 255, 0, 0)
    assert scores(pictures)[0] == scores(pictures)[1]
