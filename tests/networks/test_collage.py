"""A sketch of several things: how a layer is moved, what covers what, and when it is the plain sketch."""

import numpy as np
import pytest

from mlxflow.runtime import mx

from mlx.utils import tree_flatten

from mlxflow.networks.collage import LAYERS, Collage, Finder, splat
from mlxflow.networks.text import TextConfig, TextEncoder

CONFIG = TextConfig(word_dim=12, width=16, layers=1, heads=4, hidden=24, length=10, sketch=20, sketch_shape=(8, 8, 4),
                    collage=True)


def batch(seed, lengths, size=10):
    vectors = mx.random.normal((len(lengths), size, 12), key=mx.random.key(seed))
    return vectors, mx.arange(size)[None] < mx.array(lengths)[:, None]


def encoder_with(several=0.0):
    mx.random.seed(6)
    encoder = TextEncoder(CONFIG)
    encoder.sketch.base = mx.random.uniform(-1, 1, (8, 8, 4))
    encoder.collage.finder.several.bias = mx.array([several])
    return encoder


def moved(row, scale, shift):
    matrix = splat(mx.array([scale]), mx.array([shift]), len(row))[0]
    return np.array(matrix @ mx.array(row, dtype=mx.float32))


def test_scale_one_is_the_identity_and_minus_one_a_mirror():
    row = [1, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(moved(row, 1.0, 0.0), row, atol=1e-6)
    np.testing.assert_allclose(moved(row, -1.0, 0.0), row[::-1], atol=1e-6)
    np.testing.assert_allclose(moved(row, 1.0, 0.5), [0, 0, 1, 2, 3, 4, 5, 6], atol=1e-6)


def test_a_smaller_row_is_the_mean_of_what_comes_together_and_a_larger_one_has_no_gaps():
    ones = np.ones(16)
    for scale, reach in ((0.5, 8), (0.25, 4)):
        small = moved(ones, scale, 0.0)
        assert small.sum() == pytest.approx(reach, rel=1e-5) and small[7:9] == pytest.approx(1, abs=0.02)
    left = moved(ones, 0.5, -0.5)
    assert left[1:7] == pytest.approx(1, abs=0.02) and not left[9:].any()
    for scale in (1.3, 2.0):
        assert moved(ones, scale, 0.0)[3:-3] == pytest.approx(1, abs=0.2)
    assert not moved(ones, 0.0, 0.0).any() and not moved(ones, 1.0, 3.0).any()


def things(*colours):
    """Opaque pictures [1, 2, 8, 8, 4] in [-1, 1], each of one colour in [0, 1]."""
    return 2 * mx.array(np.array([[np.full((8, 8, 4), (*colour, 1.0), np.float32) for colour in colours]])) - 1


RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
WHOLE = [1.0, 1.0, 0.0, 0.0]


def laid(opacities, places=None):
    collage = Collage(16, 12, 64, 8)
    logits = [np.log(opacity / (1 - opacity)) for opacity in np.clip(opacities, 1e-12, 1 - 1e-7)]
    layout = mx.array([[[*(places or {}).get(i, WHOLE), float(logit)] for i, logit in enumerate(logits)]])
    return np.array(collage.lay(things(RED, BLUE), layout))[0] / 2 + 0.5


def test_what_is_in_front_covers_what_is_behind():
    assert [which for which, _, _ in LAYERS] == [1, 1, 0, 1, 1]
    np.testing.assert_allclose(laid([1, 0, 1, 0, 0])[4, 4], (*RED, 1), atol=1e-6)
    np.testing.assert_allclose(laid([0, 0, 1, 1, 0])[4, 4], (*BLUE, 1), atol=1e-6)
    np.testing.assert_allclose(laid([0, 0, 1, 0.25, 0])[4, 4], (0.75, 0, 0.25, 1), atol=1e-6)
    assert not laid([0, 0, 0, 0, 0]).round(6).any()


def test_two_things_stand_side_by_side():
    board = laid([0, 0, 1, 1, 0], {2: [0.5, 1.0, -0.5, 0.0], 3: [0.5, 1.0, 0.5, 0.0]})
    np.testing.assert_allclose(board[2:6, 1:3], np.broadcast_to((*RED, 1), (4, 2, 4)), atol=1e-6)
    np.testing.assert_allclose(board[2:6, 5:7], np.broadcast_to((*BLUE, 1), (4, 2, 4)), atol=1e-6)


def test_a_prompt_of_one_thing_has_the_plain_sketch_and_one_of_several_the_collage():
    said = batch(1, [4, 6])
    one, several = encoder_with(-50.0)(*said), encoder_with(50.0)(*said)
    encoder = encoder_with()
    np.testing.assert_allclose(one.sketch, encoder.sketch(one.pooled), atol=1e-6)
    laid, logit = encoder.laid_out(said[0], one.tokens, one.mask, one.pooled)
    np.testing.assert_allclose(several.sketch, laid, atol=1e-6)
    np.testing.assert_allclose(encoder(*said).sketch, (one.sketch + laid) / 2, atol=1e-6)
    assert not logit.any() and mx.abs(several.sketch - one.sketch).max().item() > 0.1


def test_words_outside_the_mask_change_nothing_and_an_empty_prompt_has_no_sketch():
    encoder = encoder_with()
    encoder.collage.named.weight = mx.random.normal((64, 12))
    vectors, mask = batch(2, [3, 0, 7])
    other = mx.where(mask[..., None], vectors, 50.0)
    one, two = encoder(vectors, mask).sketch, encoder(other, mask).sketch
    assert mx.allclose(one, two, atol=1e-5) and one[0].any() and not one[1].any()
    alone = encoder(vectors[2:, :7], mask[2:, :7]).sketch
    assert mx.allclose(one[2:], alone, atol=1e-5)
    maps, _ = Finder(16)(mx.random.normal((2, 5, 16)), mx.array([[True] * 3 + [False] * 2, [True] * 5]))
    assert not maps[0, :, 3:].any() and mx.allclose(maps.sum(axis=-1), mx.ones((2, 4)))


def test_every_number_of_a_new_layout_has_a_slope():
    """A layer of scale 1 and shift 0 has none: it would stay there for ever."""
    encoder = encoder_with()
    said = batch(8, [5, 9, 8])

    def loss(bias):
        encoder.collage.place.bias = bias
        return mx.square(encoder(*said).sketch - 0.3).sum()

    slope = np.array(mx.grad(loss)(encoder.collage.place.bias)).reshape(len(LAYERS), 5)
    assert (np.abs(slope) > 1e-3).all(), slope


def test_gradients_are_finite_and_reach_everything_that_the_collage_learns():
    encoder = encoder_with()
    collage = encoder.collage
    collage.named.weight = 0.1 * mx.random.normal((64, 12))
    collage.place.weight = 0.1 * mx.random.normal(collage.place.weight.shape)
    collage.finder.out.weight = 0.1 * mx.random.normal(collage.finder.out.weight.shape)
    vectors, mask = batch(5, [5, 0, 9, 8])

    def loss(weights):
        collage.update(weights)
        sketch = encoder(vectors, mask).sketch
        return mx.square(sketch - 0.3).sum()

    gradients = dict(tree_flatten(mx.grad(loss)(collage.parameters())))
    assert all(mx.isfinite(g).all().item() for g in gradients.values())
    assert not [name for name, g in gradients.items() if not g.any().item()]


@pytest.mark.parametrize("sizes", [{"sketch": 0}, {"sketch_shape": (8, 8, 3)}])
def test_a_collage_needs_a_sketch_with_transparency(sizes):
    with pytest.raises(ValueError, match="needs a sketch with transparency"):
        TextConfig(**{"sketch": 20, "collage": True} | sizes)
