import numpy as np
import pytest

from mlxflow.data.labelled import Labelled, to_unit
from mlxflow.evaluation.classifier import frechet, judge, square_root


def bars(count, seed):
    """Class k is a bright row in the k-th third of the picture."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    images = generator.integers(0, 60, (count, 16, 16, 1)).astype(np.uint8)
    images[np.arange(count), 3 + 4 * labels] = 250
    return Labelled(images, labels, ("top", "middle", "bottom"))


@pytest.fixture(scope="module")
def parts():
    return {"train": bars(300, 0), "val": bars(200, 1)}


def test_the_judge_learns_keeps_what_it_learnt_and_tells_good_from_bad(parts, tmp_path):
    calls = []
    first = judge(tmp_path / "judge.safetensors", parts, 40, lambda step, loss: calls.append(step))
    assert calls == list(range(1, 41)) and first.accuracy > 0.95
    again = judge(tmp_path / "judge.safetensors", parts, 40, lambda step, loss: calls.append(step))
    assert len(calls) == 40 and again.accuracy == first.accuracy
    good = bars(120, 2)
    scores = again.scores(to_unit(good.images), good.labels)
    wrong = again.scores(to_unit(good.images), (good.labels + 1) % 3)
    noise = again.scores(np.random.default_rng(0).standard_normal((120, 16, 16, 1)).astype(np.float32), good.labels)
    assert scores["read as asked"] > 0.95 and wrong["read as asked"] < 0.05
    assert noise["frechet"] > 10 * scores["frechet"]


def test_frechet_is_the_closed_form_for_gaussians():
    generator = np.random.default_rng(0)
    a = generator.standard_normal((200_000, 3)) * [1, 2, 3]
    b = generator.standard_normal((200_000, 3)) * [2, 2, 1] + [1, 0, 0]
    # Commuting covariances: |m|^2 + sum (s1 - s2)^2.
    assert frechet(a, b) == pytest.approx(1 + 1 + 0 + 4, rel=0.02)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    turn = np.linalg.qr(generator.standard_normal((3, 3)))[0]
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b), rel=1e-6)


def test_square_root():
    m = np.random.default_rng(0).standard_normal((4, 4))
    np.testing.assert_allclose(square_root(m @ m.T) @ square_root(m @ m.T), m @ m.T, atol=1e-9)
