"""The emoji U-Net: its size, what it reads, and how it starts."""

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxflow.networks import build
from mlxflow.networks.text import Condition
from mlxflow.networks.unet import UNet, UNetConfig
from mlxflow.runtime import mx

SMALL = UNetConfig(image_size=16, widths=(16, 32, 32), embedding=32, heads_dim=16, text_width=24, pixel_width=4,
                   sketch=True)


def random(*shape, seed=0):
    return mx.array(np.random.default_rng([*shape, seed]).standard_normal(shape).astype(np.float32))


def awake(config=SMALL):
    """A U-Net without silent layers: every parameter is drawn at random."""
    net = UNet(config)
    names = [(n, random(*p.shape, seed=i) * 0.2) for i, (n, p) in enumerate(tree_flatten(net.parameters()))]
    net.load_weights(names)
    return net


def condition(batch=3, length=5, words=3, width=24, seed=1, grid=4):
    mask = mx.broadcast_to(mx.arange(length)[None] < words, (batch, length))
    return Condition(random(batch, length, width, seed=seed), mask, random(batch, width, seed=seed + 1),
                     random(batch, grid, grid, 4, seed=seed + 2))


def test_the_emoji_model_has_4_7_million_parameters():
    model = build({"kind": "text-unet", "text": {"sketch": 512}, "unet": {"sketch": True}})
    count = sum(p.size for _, p in tree_flatten(model.unet.parameters()))
    assert 4_600_000 <= count <= 4_800_000


def test_a_width_that_its_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="112 with attention is no multiple of heads_dim 32"):
        UNet(UNetConfig(widths=(64, 112, 160)))


def test_a_new_network_predicts_zero():
    net = UNet(SMALL)
    out = net(random(3, 16, 16, 4), mx.array([0.0, 0.5, 1.0]), condition())
    assert out.shape == (3, 16, 16, 4)
    assert float(mx.abs(out).max()) == 0


def test_every_input_and_every_parameter_matters():
    net = awake()
    x, t, words = random(3, 16, 16, 4), mx.array([0.1, 0.5, 0.9]), condition()

    def loss(parameters):
        net.update(parameters)
        both = words._replace(mask=mx.concatenate([mx.zeros((1, 5), dtype=mx.bool_), words.mask[1:]]))
        return mx.square(net(x, t, both)).mean()

    for name, gradient in tree_flatten(mx.grad(loss)(net.parameters())):
        assert float(mx.abs(gradient).max()) > 0, f"{name} has no influence"
    base = net(x, t, words)
    assert not mx.allclose(base, net(x + 0.1, t, words))
    assert not mx.allclose(base, net(x, t + 0.05, words))
    assert not mx.allclose(base, net(x, t, condition(seed=7)))
    assert not mx.allclose(base, net(x, t, words._replace(sketch=words.sketch + 0.1)))


def test_masked_words_and_the_other_pictures_of_a_batch_do_not_matter():
    net = awake()
    x, t, words = random(3, 16, 16, 4), mx.array([0.1, 0.5, 0.9]), condition()
    base = np.array(net(x, t, words))
    loud = words._replace(tokens=mx.where(words.mask[..., None], words.tokens, 100.0))
    assert np.array_equal(np.array(net(x, t, loud)), base)
    one = net(x[1:2], t[1:2], Condition(*(part[1:2] for part in words)))
    assert np.allclose(np.array(one)[0], base[1], atol=1e-4)


def test_a_dropped_prompt_is_the_same_null_whatever_it_was():
    net = awake()
    x, t = random(2, 16, 16, 4), mx.array([0.3, 0.3])
    none = mx.zeros((2, 4, 4, 4))
    outs = [net(x, t, condition(2, words=0, seed=seed)._replace(sketch=none)) for seed in (1, 2)]
    assert np.array_equal(*map(np.array, outs))
    assert np.isfinite(np.array(outs[0])).all()


@pytest.mark.parametrize("size", [16, 32])
def test_the_grid_follows_the_picture_size(size):
    config = UNetConfig(image_size=size, widths=(16, 32), blocks=(1, 1), attention=(0, 1), embedding=32, heads_dim=16,
                        text_width=24)  # and no sketch
    assert awake(config)(random(1, size, size, 4), mx.array([0.5]), condition(1)).shape == (1, size, size, 4)
