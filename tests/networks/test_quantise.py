import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlxflow.networks.quantise import dequantised, quantise
from mlxflow.runtime import mx


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.fits, self.other, self.small = nn.Linear(64, 128), nn.Linear(48, 256), nn.Linear(64, 127)
        self.table = nn.Embedding(256, 32)
        self.kernel = [nn.Conv2d(32, 32, 3)]
        self.bare = mx.zeros((4, 64))


@pytest.mark.parametrize("group_size, changed", [(32, {"fits", "table"}), (64, {"fits"}), (128, set())])
@pytest.mark.parametrize("bits", [8, 4])
def test_large_layers_whose_rows_are_whole_groups_are_quantised_and_nothing_else(bits, group_size, changed):
    network = Network()
    before = dict(tree_flatten(network.parameters()))
    after = dict(tree_flatten(quantise(network, bits, group_size).parameters()))
    assert {name.removesuffix(".scales") for name in after if name.endswith(".scales")} == changed
    for name in before.keys() - {f"{layer}.weight" for layer in changed}:
        assert mx.array_equal(after[name], before[name])
    for layer in changed:
        assert after[f"{layer}.weight"].nbytes == before[f"{layer}.weight"].size * bits // 8


def test_made_floats_again_it_computes_the_same_under_the_plain_names():
    network = Network()
    names = dict(tree_flatten(network.parameters())).keys()
    arrays = dequantised(quantise(network, 8))
    assert arrays.keys() == names
    x = mx.random.normal((3, 64), key=mx.random.key(0))
    want = x @ arrays["fits.weight"].T + network.fits.bias
    assert mx.allclose(network.fits(x), want, atol=1e-5)
    assert mx.allclose(network.table(mx.array([1, 4])), arrays["table.weight"][mx.array([1, 4])], atol=1e-6)


@pytest.mark.parametrize("bits, group_size", [(3, 32), (8, 16), (16, 32), ("8", 32)])
def test_numbers_that_there_is_no_kernel_for(bits, group_size):
    with pytest.raises(ValueError, match="4 or 8 bits in groups of 32, 64 or 128"):
        quantise(Network(), bits, group_size)
