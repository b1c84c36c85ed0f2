"""Quantised networks: matrices as 8 or 4 bits a number, in groups along a row with a scale and an offset each.

    w = scale q + offset,   q in 0 ... 2^bits - 1,   over `group_size` neighbours of a row          (mx.quantize)

MLX multiplies with such matrices as they are: `nn.Linear` and `nn.Embedding` have a quantised form. Convolutions have
none, and neither have vectors or tables that are no layer's: they stay floats. Which layers change follows from the
config alone, {"bits": 8, "group_size": 32}: those whose rows are whole groups, and that are not small. The small ones
are the first and the last, and carry the most: kept as floats they cost the emoji model 0.2 % in size and save four
fifths of the loss that 4 bits add.
"""

import mlx.nn as nn

from mlxflow.runtime import mx

BITS = (4, 8)
# The finest that MLX has. A network this small has rows of 160 numbers, which groups of 64 do not fit.
GROUP_SIZE = 32
LEAST = 8192


def suitable(layer: nn.Module, group_size: int) -> bool:
    """Whether a layer is quantised: at least LEAST numbers, in rows of whole groups."""
    if not isinstance(layer, (nn.Linear, nn.Embedding)):
        return False
    return layer.weight.size >= LEAST and layer.weight.shape[1] % group_size == 0


def quantise(network: nn.Module, bits: int, group_size: int = GROUP_SIZE) -> nn.Module:
    """The network itself, its suitable layers quantised from the weights that they have.

    Raises ValueError for numbers that MLX has no kernel for.
    """
    if bits not in BITS or group_size not in (32, 64, 128):
        raise ValueError("quantization must be to 4 or 8 bits in groups of 32, 64 or 128, "
                         f"not {bits} bits in {group_size}")
    nn.quantize(network, group_size, bits, class_predicate=lambda name, layer: suitable(layer, group_size))
    return network


def dequantised(network: nn.Module) -> dict[str, mx.array]:
    """The parameters of a quantised network under the names of the plain one."""
    from mlx.utils import tree_flatten

    arrays = dict(tree_flatten(network.parameters()))
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            scales, biases = arrays.pop(f"{name}.scales"), arrays.pop(f"{name}.biases")
            arrays[f"{name}.weight"] = mx.dequantize(layer.weight, scales, biases, layer.group_size, layer.bits)
    return arrays
