"""What the velocity networks over classes have in common, and what is special to DiT and Mamba."""

import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow.errors import MlxflowError
from mlxflow.networks import build, describe
from mlxflow.networks.dit import DiTConfig, positions
from mlxflow.networks.mamba import MambaConfig, decayed, local_convolution, scan, scan_sequential
from mlxflow.runtime import mx

SIZES = {"image_size": 8, "channels": 3, "classes": 4}
DIT = {"kind": "dit", "width": 16, "depth": 2, "heads": 2, **SIZES}
MAMBA = {"kind": "mamba", "width": 16, "depth": 2, "heads": 4, "state": 4, "expand": 2.0, "chunk": 3, **SIZES}
ONE = MAMBA | {"directions": 1, "mlp_ratio": 0.0}
UNET = {"kind": "unet", "patch": 2, "widths": [8, 16], "blocks": [1, 1], "attention": [0, 1], "heads_dim": 8,
        "embedding": 16, "text_width": 8, "pixel_width": 0, **SIZES}
ALL = pytest.mark.parametrize("config", [DIT, MAMBA, ONE, UNET], ids=["dit", "mamba", "one-direction", "unet"])


def noisy(config, seed=0):
    """A network without the zeros that new ones have, so that everything matters."""
    network = build(config)
    names = tree_flatten(network.parameters())
    keys = mx.random.split(mx.random.key(seed), len(names))
    network.update(tree_unflatten([(n, a + 0.2 * mx.random.normal(a.shape, key=k)) for (n, a), k in zip(names, keys)]))
    return network


def inputs(batch=3, seed=1):
    x = mx.random.normal((batch, 8, 8, 3), key=mx.random.key(seed))
    return x, mx.linspace(0.1, 0.9, batch), mx.arange(batch) % 4


@ALL
def test_a_new_network_predicts_zero_and_is_made_again_from_its_description(config):
    network = build(config)
    x, t, label = inputs()
    assert network.shape == (8, 8, 3) and not network(x, t, label).any()
    again = build(describe(network))
    assert describe(again) == describe(network)
    shapes = [{n: a.shape for n, a in tree_flatten(net.parameters())} for net in (network, again)]
    assert shapes[0] == shapes[1]


@ALL
def test_every_input_matters_and_samples_do_not_see_each_other(config):
    network = noisy(config)
    x, t, label = inputs()
    out = network(x, t, label)
    assert mx.abs(network(x, t + 0.05, label) - out).max() > 1e-4
    assert mx.abs(network(x, t, (label + 1) % 4) - out).max() > 1e-4
    x[0, 7, 7, 2] += 1.0
    changed = mx.abs(network(x, t, label) - out)
    # The last patch reaches the first one: through attention, levels, or the scan from the end.
    if config is not ONE:
        assert changed[0, 0, 0].max() > 1e-5
    assert changed[1:].max() == 0


@ALL
def test_the_null_label_is_none_of_the_classes_and_labels_are_dropped_a_sample(config):
    network = noisy(config)
    x, t, label = inputs(4)
    keep = mx.array([True, False, True, False])
    (dropped,) = network.dropped((label,), keep)
    assert dropped.tolist() == [0, 4, 2, 4]
    null = network(x, t, mx.full((4,), 4))
    for k in range(4):
        assert mx.abs(network(x, t, mx.full((4,), k)) - null).max() > 1e-4
    mixed = network(x, t, dropped)
    for i in range(4):
        expected = network(x, t, label) if keep[i] else null
        assert mx.allclose(mixed[i], expected[i], atol=1e-5)


@ALL
def test_without_classes_there_is_no_label(config):
    network = noisy(config | {"classes": 0})
    x, t, _ = inputs()
    condition = network.encode(*network.dropped((), mx.array([True, False, True])))
    assert condition == () and "labels" not in dict(tree_flatten(network.parameters()))
    assert mx.array_equal(network(x, t), network.predict(x, t, ()))


@pytest.mark.parametrize("config", [DIT, MAMBA], ids=["dit", "mamba"])
def test_recomputing_changes_no_gradient(config):
    x, t, label = inputs()
    network = noisy(config)
    weights = network.parameters()

    def loss(weights):
        network.update(weights)
        return mx.square(network(x, t, label) - x).mean()

    plain = tree_flatten(mx.grad(loss)(weights))
    network.recompute = True
    for (name, a), (_, b) in zip(plain, tree_flatten(mx.grad(loss)(weights))):
        assert mx.allclose(a, b, atol=1e-6), name
        assert mx.abs(a).max() > 0 or name == "labels", name


@pytest.mark.parametrize("length, chunk", [(1, 4), (4, 4), (5, 4), (64, 16), (64, 64), (50, 7), (20, 100)])
@pytest.mark.parametrize("fade", [0.01, 1.0, 30.0])
def test_the_chunked_scan_is_the_recurrence(length, chunk, fade):
    keys = mx.random.split(mx.random.key(length), 4)
    x, b, c = (mx.random.normal(shape, key=k) for shape, k in
               zip([(2, length, 3, 5), (2, length, 4), (2, length, 4)], keys))
    decay = -fade * mx.random.uniform(shape=(2, length, 3), key=keys[3])
    want = scan_sequential(x, decay, b, c)
    got = scan(x, decay, b, c, chunk)
    scale = max(1.0, mx.abs(want).max().item())
    assert mx.abs(got - want).max().item() < 1e-5 * scale
    grads = [mx.grad(lambda *v: mx.sin(f(*v)).sum(), argnums=(0, 1, 2, 3))(x, decay, b, c)
             for f in (scan_sequential, lambda *v: scan(*v, chunk))]
    for want, got in zip(*grads):
        assert mx.abs(got - want).max().item() < 1e-4 * max(1.0, mx.abs(want).max().item())


def test_the_decay_is_the_exponential():
    x = mx.linspace(-40, 0, 10_001)
    np.testing.assert_allclose(np.array(decayed(x)), np.exp(np.array(x, np.float64)), rtol=2e-6, atol=2e-7)
    slope = mx.grad(lambda v: decayed(v).sum())(x)
    assert mx.array_equal(slope, decayed(x))


@pytest.mark.parametrize("places", [(-3, -2, -1, 0), (-1, 0, 1)])
def test_the_local_convolution_and_its_gradient_are_the_sum_they_say(places):
    u, w = mx.random.normal((2, 7, 5), key=mx.random.key(0)), mx.random.normal((len(places), 5), key=mx.random.key(1))

    def plain(u, w):
        rows = [sum(w[k] * u[:, i + p] for k, p in enumerate(places) if 0 <= i + p < 7) for i in range(7)]
        return mx.stack(rows, axis=1)

    ours = local_convolution(places)
    assert mx.allclose(ours(u, w), plain(u, w), atol=1e-6)
    for got, want in zip(*(mx.grad(lambda u, w: mx.sin(f(u, w)).sum(), argnums=(0, 1))(u, w) for f in (ours, plain))):
        assert mx.allclose(got, want, atol=1e-5)


def test_one_direction_reads_forwards_only():
    network = noisy(ONE)
    mixer = network.blocks[0].mixer
    x = mx.random.normal((1, 10, 16), key=mx.random.key(3))
    before = mixer(x)
    x[0, 6] += 1.0
    changed = mx.abs(mixer(x) - before).max(axis=-1)[0]
    assert (changed[:6] == 0).all() and (changed[6:] > 0).all()
    both = noisy(MAMBA).blocks[0].mixer
    before = both(x)
    x[0, 6] += 1.0
    assert (mx.abs(both(x) - before).max(axis=-1)[0] > 0).all()


def test_positions_tell_all_places_apart_and_shift_alike():
    p = np.array(positions(8, 32))
    distances = np.linalg.norm(p[:, None] - p[None], axis=-1)
    assert distances[~np.eye(64, dtype=bool)].min() > 0.5
    grid = p.reshape(8, 8, 32)
    # Rows and columns are coded the same way in their own halves.
    np.testing.assert_allclose(grid[:, 0, :16], grid[0, :, 16:], atol=1e-6)


@pytest.mark.parametrize("preset, millions", [("S", 33), ("B", 130)])
def test_the_presets_have_the_published_sizes(preset, millions):
    network = build({"kind": "dit", "preset": preset, "classes": 1000, "channels": 4})
    count = sum(a.size for _, a in tree_flatten(network.parameters()))
    assert abs(count / 1e6 - millions) < 0.02 * millions
    assert describe(network)["patch"] == 2


@pytest.mark.parametrize("make, says", [
    (lambda: DiTConfig(patch=3), "multiple of patch"), (lambda: DiTConfig(heads=5), "multiple of heads"),
    (lambda: DiTConfig(classes=-1), "classes"), (lambda: MambaConfig(directions=3), "directions"),
    (lambda: MambaConfig(width=10), "multiple of 4"), (lambda: MambaConfig(heads=5), "multiple of heads"),
])
def test_sizes_that_do_not_fit_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_unknown_presets_and_kinds_are_sentences():
    with pytest.raises(MlxflowError, match="no preset 'XXL' of dit: there are laptop, S, B"):
        build({"kind": "dit", "preset": "XXL"})
    with pytest.raises(MlxflowError, match="no network 'gan'"):
        build({"kind": "gan"})
