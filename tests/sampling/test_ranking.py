"""Ranking with models whose answers are known: pictures that the words explain come first."""

import numpy as np
import pytest

from mlxflow.data.images import premultiply
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.sampling.ranking import TIMES, best, scores


class Knows:
    """Told a prompt it predicts that prompt's picture, told nothing grey, whatever the noise says."""

    def __init__(self, real, pictures):
        self.path, self.null = real.path, mx.zeros((1, 1))
        self.pictures = mx.array(np.stack([np.zeros_like(premultiply(pictures[0])), *map(premultiply, pictures)]))

    def encode(self, prompt):
        return mx.array([[float(["red", "blue"].index(prompt) + 1)]])

    def velocity(self, x, t, condition):
        answer = self.pictures[condition[:, 0].astype(mx.int32)]
        return self.path.convert(x, answer, t, "data", "velocity", 0.05)


def squares(*colours):
    made = np.zeros((len(colours), 8, 8, 4), np.uint8)
    made[:, 2:6, 2:6] = np.array(colours)[:, None, None]
    return made


RED, BLUE, PINK = (255, 0, 0, 255), (0, 0, 255, 255), (255, 90, 90, 255)


def test_the_picture_that_the_words_say_is_first(pipeline):
    model = Knows(pipeline, squares(RED, BLUE))
    pictures = squares(BLUE, PINK, RED)
    assert best(model, "red", pictures, 3) == [2, 1, 0]
    assert best(model, "blue", pictures, 1) == [0]
    # The right picture has no error left at all: its share is 1 exactly.
    assert scores(model, "red", squares(RED))[0] == pytest.approx(1, abs=1e-4)


def test_a_score_does_not_depend_on_company_and_equal_ones_keep_their_order(pipeline):
    pictures = squares(RED, BLUE, RED, PINK).repeat(2, 1).repeat(2, 2)
    fit = scores(pipeline, "red", pictures)
    assert fit[0] == fit[2] and np.isfinite(fit).all()
    assert scores(pipeline, "red", pictures[3:])[0] == fit[3]
    order = best(pipeline, "red", pictures, 4)
    assert order.index(0) < order.index(2) and (np.diff(fit[order]) <= 0).all()


def test_the_network_is_asked_twice_for_each_picture_and_time(pipeline):
    asked = []

    class Counted:
        path, null, encode = pipeline.path, pipeline.null, pipeline.encode

        def velocity(self, x, t, condition):
            asked.append(len(x))
            return pipeline.velocity(x, t, condition)

    scores(Counted(), "red", squares(RED, BLUE).repeat(2, 1).repeat(2, 2))
    assert sum(asked) == 2 * 2 * len(TIMES)


def test_a_prompt_without_words_is_refused(pipeline):
    with pytest.raises(MlxflowError, match="no English word"):
        scores(pipeline, "\u7b11", squares(RED))
