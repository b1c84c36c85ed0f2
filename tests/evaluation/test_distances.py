import numpy as np

from mlxflow.data.emoji import embedded_tiles
from mlxflow.evaluation.check import blurred, moved
from mlxflow.evaluation.distances import nearest
from mlxflow.evaluation.retrieval import Gallery


def test_training_pictures_are_copies_and_mixtures_are_not():
    tiles = np.stack([pixels for i, (_, pixels) in enumerate(embedded_tiles()) if i % 100 == 0])
    gallery = Gallery(tiles)
    for again in (tiles, moved(tiles, shift=(1, -2)), moved(tiles, scale=1.05, shift=(-2, 2))):
        found = nearest(gallery.distances(again))
        # Some fill the frame, and lose what a shift takes out of it.
        assert found.copies.mean() > 0.85 and np.array_equal(found.index, np.arange(len(tiles)))
    blur = nearest(gallery.distances(blurred(tiles, 16)))
    assert 0.2 < blur.copies.mean() < 0.7  # the threshold is where a blur to 16x16 lies
    half = np.concatenate([tiles[:, :, :32], np.roll(tiles, 1, axis=0)[:, :, 32:]], axis=2)
    assert nearest(gallery.distances(half)).copies.mean() < 0.1


def test_the_ratio_says_how_alone_the_nearest_is():
    found = nearest(np.array([[0.1, 0.2, 0.4], [0.3, 0.3, 0.3]]))
    assert found.index.tolist() == [0, 0] and np.allclose(found.ratio, [0.5, 1]) and np.allclose(found.distance, [0.1, 0.3])
    assert found.copies.tolist() == [False, False]
    assert nearest(np.array([[0.05]])).copies.tolist() == [True]
