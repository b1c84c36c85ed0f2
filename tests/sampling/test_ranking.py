"""Ranking with models whose answers are known: what the model holds likely comes first."""

import numpy as np
import pytest

from mlxflow.data.images import premultiply
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.sampling.ranking import TIMES, agreement, best, losses, scores


class Knows:
    """Told a prompt it predicts that prompt's picture, whatever the noise says."""

    def __init__(self, real, pictures):
        self.path = real.path
        self.pictures = mx.array(premultiply(pictures))

    def encode(self, prompt):
        return mx.array([[["red", "blue"].index(prompt)]])

    def velocity(self, x, t, condition):
        answer = self.pictures[condition[:, 0]]
        return self.path.convert(x, answer, t, "data", "velocity", 0.05)


def squares(*colours):
    made = np.zeros((len(colours), 8, 8, 4), np.uint8)
    made[:, 2:6, 2:6] = np.array(colours)[:, None, None]
    return made


RED, BLUE, PINK = (255, 0, 0, 255), (0, 0, 255, 255), (255, 90, 90, 255)


def test_of_two_pictures_the_one_that_the_words_say_is_first(pipeline):
    model = Knows(pipeline, squares(RED, BLUE))
    for pair, order in ((squares(BLUE, PINK), [1, 0]), (squares(RED, PINK), [0, 1])):
        assert best(model, "red", pair, 2) == order
        # They are as far from each other as the other way round: the loss alone decides, by one deviation.
        assert sorted(scores(model, "red", pair)) == pytest.approx([-1, 1])
    assert best(model, "blue", squares(PINK, BLUE), 1) == [1]


def test_the_loss_is_the_distance_to_what_the_model_predicts(pipeline):
    model = Knows(pipeline, squares(RED, BLUE))
    real = premultiply(squares(RED, PINK))
    wanted = np.square(real - real[:1]).mean((1, 2, 3))
    assert losses(model, "red", squares(RED, PINK)) == pytest.approx(wanted, abs=1e-6)


def test_of_equally_likely_pictures_the_one_that_most_are_like_is_first(pipeline):
    model = Knows(pipeline, squares((0, 0, 0, 0), BLUE))
    # By the loss these four are alike: each has one square of the same size and colour, at another place.
    pictures = np.zeros((4, 8, 8, 4), np.uint8)
    for picture, (x, y) in zip(pictures, ((0, 0), (4, 4), (3, 4), (4, 3))):
        picture[y : y + 3, x : x + 3] = RED
    assert np.ptp(losses(model, "red", pictures)) < 1e-6
    assert best(model, "red", pictures, 4)[0] == 1 and best(model, "red", pictures, 4)[-1] == 0


def test_agreement_is_the_mean_distance_of_thumbnails():
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (5, 64, 64, 4), np.uint8)
    small = premultiply(pictures).reshape(5, 32, 2, 32, 2, 4).mean((2, 4), dtype=np.float64)
    apart = np.sqrt(np.square(small[:, None] - small[None]).mean((2, 3, 4)))
    assert agreement(pictures) == pytest.approx(-apart.sum(1) / 4, rel=1e-5)
    # A picture that is wider than high would tell a swapped axis.
    assert agreement(np.stack([pictures[0], pictures[0].swapaxes(0, 1)]))[0] < -0.1
    assert agreement(pictures[:1]) == 0


def test_a_score_is_relative_and_equal_pictures_keep_their_order(pipeline):
    pictures = squares(RED, BLUE, RED, PINK).repeat(2, 1).repeat(2, 2)
    fit = scores(pipeline, "red", pictures)
    assert fit.sum() == pytest.approx(0, abs=1e-9) and fit[0] == fit[2] and len(set(fit)) == 3
    order = best(pipeline, "red", pictures, 4)
    assert order.index(0) < order.index(2) and (np.diff(fit[order]) <= 0).all()
    # A picture's loss is its own, whoever stands beside it.
    assert losses(pipeline, "red", pictures[3:])[0] == losses(pipeline, "red", pictures)[3]
    assert scores(pipeline, "red", pictures[:1]).tolist() == [0]
    assert scores(pipeline, "red", pictures[[0, 0, 0]]).tolist() == [0, 0, 0]


def test_the_network_is_asked_twice_for_each_picture_and_time_with_opposite_noises(pipeline):
    asked = []

    class Counted:
        path, encode = pipeline.path, pipeline.encode

        def velocity(self, x, t, condition):
            asked.append((np.array(x), np.array(t)))
            return pipeline.velocity(x, t, condition)

    picture = squares(RED).repeat(2, 1).repeat(2, 2)
    losses(Counted(), "red", picture)
    ((x, t),) = asked
    assert len(x) == 2 * len(TIMES)
    # x_t = a x1 + s x0: the noises of a pair cancel.
    middle = x.reshape(2, len(TIMES), *x.shape[1:]).mean(0)
    assert middle == pytest.approx(t[: len(TIMES), None, None, None] * premultiply(picture), abs=1e-6)


def test_a_prompt_without_words_is_refused(pipeline):
    with pytest.raises(MlxflowError, match="no English word"):
        scores(pipeline, "\u7b11", squares(RED))
