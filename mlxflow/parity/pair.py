"""A network and its twin with the same weights, and the output of every module of both.

MLX's modules have no hooks: while a trace runs, the classes of the network's modules record what `__call__`
returns.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from mlxflow.interop.torch import from_torch, to_torch  # noqa: E402
from mlxflow.networks import describe  # noqa: E402
from mlxflow.parity import errors, twins  # noqa: E402

Stages = dict[str, np.ndarray]


def parameters(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(a.astype(mx.float32)) for name, a in tree_flatten(network.parameters())}


def randomise(network: nn.Module, seed: int, scale: float = 1.0) -> nn.Module:
    """The network with numbers in the place of the zeros and ones that a new one has, so that nothing is
    silent.

    scale multiplies matrices and kernels: a small one makes the inputs of norms small, where their eps shows.
    """
    rng = np.random.default_rng([seed, 31])
    made = {}
    for name, value in parameters(network).items():
        noise = rng.standard_normal(value.shape, dtype=np.float32)
        if name == "counts":  # of a codebook: how often each code was used, some of them hardly ever
            value = np.square(noise)
        elif value.ndim < 2:
            value = value + 0.3 * noise
        else:
            constant = np.ptp(value) == 0
            value = scale * (noise / np.sqrt(value[0].size) if constant else value)
        made[name] = mx.array(value)
    network.update(tree_unflatten(list(made.items())))
    return network


class Pair:
    """`network` (MLX) and `twin` (PyTorch, on MPS where there is one, else on the CPU)."""

    def __init__(self, network: nn.Module):
        module = twins.load()
        import torch

        self.torch = torch
        self.device = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        self.network, self.kind = network, network.kind
        self.twin = module.build(describe(network)).to(self.device)
        self.set(parameters(network))

    def set(self, arrays: Stages) -> None:
        """The same weights for both, by the MLX network's names; the twin must have just these."""
        self.network.update(tree_unflatten([(name, mx.array(a)) for name, a in arrays.items()]))
        state = {name: self.torch.from_numpy(a) for name, a in to_torch(self.network, arrays).items()}
        self.twin.load_state_dict(state, strict=True)

    def arrays(self, tensors: dict) -> Stages:
        """Parameters, gradients or averages of the twin's by name, in MLX's order of axes."""
        return {name: np.array(a) for name, a in from_torch(self.network, tensors).items()}

    def tensor(self, array: np.ndarray):
        """For the twin: pictures and maps `[B, H, W, C]` with their channels first."""
        array = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def array(self, tensor) -> np.ndarray:
        """The inverse of `tensor`."""
        array = tensor.detach().cpu().numpy()
        return np.moveaxis(array, 1, -1) if array.ndim == 4 else array

    def forward(self, *inputs: np.ndarray, step: np.ndarray | None = None) -> tuple[Stages, Stages]:
        """The outputs of all modules by name, in the order in which they were done: ours and the twin's.

        step `[B]`: of a few-step network, the step over which it predicts.
        """
        with trace_network(self.network) as ours:
            output = call(self.network, *map(mx.array, inputs), step=None if step is None else mx.array(step))
            note(ours, "output", output, np.array)
        with self.trace_twin() as theirs, self.torch.no_grad():
            told = None if step is None else self.tensor(step)
            output = call(self.twin, *map(self.tensor, inputs), step=told)
            note(theirs, "output", output, self.array)
        return ours, theirs

    def compare(self, *inputs: np.ndarray, step: np.ndarray | None = None,
                tolerance: errors.Tolerance = errors.FORWARD) -> list[errors.Row]:
        """A row for every output of a module of the network. One that the twin lacks fails."""
        ours, theirs = self.forward(*inputs, step=step)
        nothing = np.array(np.nan)
        return [errors.row(name, value, theirs.get(name, nothing), tolerance) for name, value in ours.items()]

    @contextmanager
    def trace_twin(self) -> Iterator[Stages]:
        stages: Stages = {}
        head_norm = twins.load().common.HeadNorm

        def hook(name, module):
            def record(_, __, output):
                # [B, heads, N, D] is no map.
                plain = isinstance(module, head_norm)
                note(stages, name, output, lambda a: a.detach().cpu().numpy() if plain else self.array(a))
            return module.register_forward_hook(record)

        hooks = [hook(name, module) for name, module in self.twin.named_modules()]
        try:
            yield stages
        finally:
            for one in hooks:
                one.remove()


def call(network, *inputs, step=None):
    """The output of either kind of network for its inputs; over a step, if one is given."""
    if step is None:
        return network(*inputs)
    x, t, *told = inputs
    return network.predict(x, t, network.encode(*told), step)


@contextmanager
def trace_network(network: nn.Module) -> Iterator[Stages]:
    """Inside, what the network's modules return is put into the dictionary by their names."""
    stages: Stages = {}
    names = {id(module): name for name, module in network.named_modules()}
    open_now: list[int] = []

    def recording(call):
        def wrapped(self, *args, **settings):
            # A class that calls its base's __call__ is one stage, not two.
            if id(self) not in names or id(self) in open_now:
                return call(self, *args, **settings)
            open_now.append(id(self))
            try:
                output = call(self, *args, **settings)
            finally:
                open_now.pop()
            note(stages, names[id(self)], output, np.array)
            return output
        return wrapped

    classes = {c for _, module in network.named_modules() for c in type(module).__mro__}
    before = {c: vars(c)["__call__"] for c in classes if issubclass(c, nn.Module) and "__call__" in vars(c)}
    try:
        for c, call in before.items():
            c.__call__ = recording(call)
        yield stages
    finally:
        for c, call in before.items():
            c.__call__ = call


def note(stages: Stages, name: str, output, to_array) -> None:
    """Puts an output, or each part of a tuple, into `stages`: "unet.head", "text.pooled"; the second call is
    "norm (2)".
    """
    if isinstance(output, tuple) and (name or hasattr(output, "_fields")):
        for part, value in zip(getattr(output, "_fields", map(str, range(len(output)))), output):
            if value is not None and 0 not in value.shape and "bool" not in str(value.dtype):
                note(stages, f"{name}.{part}" if name else part, value, to_array)
        return
    if not name:
        return  # the network itself: what it returns is noted by its caller
    count = 1 + sum(key == name or key.startswith(f"{name} (") for key in stages)
    stages[name if count == 1 else f"{name} ({count})"] = to_array(output)
