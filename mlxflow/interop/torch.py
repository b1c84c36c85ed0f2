"""Weights of a network to and from PyTorch: the same dotted names, each array in the order of axes that torch keeps.

    convolution             [out, *kernel, in / groups]  <->  [out, in / groups, *kernel]
    transposed convolution  [out, *kernel, in]           <->  [in, out, *kernel]
    everything else         as it is: matrices are [out, in] in both, vectors, tables, and arrays that are no
                            layer's (positions, a bare kernel) have one order

Which of these an array is follows from the module that owns it, never from its shape: a 3x3 kernel over 3 channels
looks the same in both. So a state dict fits a torch module whose attributes are named as the network's are (a list is
an `nn.ModuleList`, an array of its own an `nn.Parameter`). PyTorch itself is not needed here. The moments of an
optimizer, gradients and averages have the names and the axes of their parameters and move in the same way.
"""

from collections.abc import Mapping

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def axes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """For each parameter whose order differs, by dotted name: torch's axes as numbers of MLX's, for `transpose`."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, CONVOLUTIONS + TRANSPOSED):
            kernel = range(1, module.weight.ndim - 1)
            last = module.weight.ndim - 1
            order = (last, 0, *kernel) if isinstance(module, TRANSPOSED) else (0, last, *kernel)
            found[f"{name}.weight" if name else "weight"] = order
    return found


def to_torch(network: nn.Module, arrays: Mapping[str, np.ndarray | mx.array]) -> dict[str, np.ndarray]:
    """`arrays` of the network by name, as a torch module keeps them: contiguous NumPy arrays.

    The type is kept, but for bfloat16, which NumPy has not: it becomes float32, without loss. A name that is not the
    network's, or an array with another number of axes, is passed on as it is, for a check to find.
    """
    orders = axes(network)
    made = {}
    for name, array in arrays.items():
        array = _numpy(array)
        order = orders.get(name)
        if order and array.ndim == len(order):
            array = array.transpose(order)
        made[name] = np.array(array, order="C")
    return made


def from_torch(network: nn.Module, arrays: Mapping) -> dict[str, mx.array]:
    """The inverse of `to_torch`, bit for bit: NumPy arrays, MLX arrays or torch tensors by name, to MLX's order.

    Every type is kept, a tensor's bfloat16 too.
    """
    orders = axes(network)
    made = {}
    for name, array in arrays.items():
        array = _mlx(array)
        order = orders.get(name)
        if order and array.ndim == len(order):
            array = mx.contiguous(array.transpose(inverse(order)))
        made[name] = array
    return made


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `order`."""
    return tuple(order.index(axis) for axis in range(len(order)))


def _numpy(array) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return array
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def _mlx(array) -> mx.array:
    if isinstance(array, mx.array):
        return array
    if isinstance(array, np.ndarray):
        return mx.array(array)
    import torch

    array = array.detach().cpu().contiguous()
    if array.dtype == torch.bfloat16:
        return mx.array(array.view(torch.int16).numpy()).view(mx.bfloat16)
    return mx.array(array.numpy())
