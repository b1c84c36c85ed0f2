"""What is trained. The loop in training/trainer.py knows an objective and nothing else of the model.

`FlowMatching` trains every velocity network, told words, classes or nothing; training/reconstruction.py has the
objective of autoencoders. Dataset and network agree on a condition's `inputs`, a tuple of arrays: the dataset's
batches are (pictures, *inputs), the network encodes them and puts its own null in the place of dropped ones.
"""

from typing import Protocol

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_unflatten  # noqa: E402
from PIL import Image  # noqa: E402

from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.flow import times  # noqa: E402
from mlxflow.flow.couplings import couple  # noqa: E402
from mlxflow.flow.losses import by_time_bin, flow_matching  # noqa: E402
from mlxflow.training.config import TrainConfig  # noqa: E402
from mlxflow.training.samples import sample_sheet  # noqa: E402
from mlxflow.training.validation import BINS, validation_loss  # noqa: E402
from mlxflow.weights import path_of  # noqa: E402

Arrays = dict[str, mx.array]
_SHARED, _OWN = 11, 12


def key_for(seed: int, purpose: int, *numbers: int) -> mx.array:
    """A random key that depends on all of its arguments."""
    low, high = np.random.SeedSequence([seed, purpose, *numbers]).generate_state(2)
    return mx.random.key(int(high) << 32 | int(low))


class Objective(Protocol):
    """process: what the weights' config says of how to sample; {} for a model that is not sampled.

    buffers: parameters that no gradient moves.
    """

    process: dict
    buffers: tuple[str, ...]

    def arrays(self, batch: tuple[np.ndarray, ...], step: int) -> tuple[mx.array, ...]:
        """This rank's share of a batch and all that is drawn for it, each `[b, ...]`: cut into micro-batches."""

    def loss(self, weights: Arrays, *arrays: mx.array) -> tuple[mx.array, list[mx.array]]:
        """The mean loss, and arrays that are summed over micro-batches and ranks."""

    def settle(self, before: Arrays, sums: list[mx.array], step: int) -> Arrays:
        """The buffers after a step, from what they were."""

    def entries(self, sums: list[np.ndarray]) -> dict:
        """What a line of the log says of the sums since the last one."""

    def validate(self, network: nn.Module) -> dict[str, dict]:
        """{name of a fixed set: {"loss": ..., ...}}."""

    def sheet(self, network: nn.Module) -> Image.Image:
        """What the network makes, from the same noise every time."""


def make_draws(config: TrainConfig, rank: int, size: int, batch: int, shape: tuple[int, ...]):
    """draws(shared key, own key) -> times `[b]`, noise `[b, *shape]`, keep `[b]` bool (False: condition dropped)."""
    settings = {"mean": config.times_mean, "std": config.times_std} if config.times != "uniform" else {}

    def draws(shared, own):
        noise_key, keep_key = mx.random.split(own)
        t = times.draw(config.times, shared, batch, rank=rank, size=size, **settings)
        noise = mx.random.normal((batch, *shape), key=noise_key)
        keep = mx.random.uniform(shape=(batch,), key=keep_key) >= config.drop
        return t, noise, keep

    return mx.compile(draws)


def precision_of(config: TrainConfig) -> mx.Dtype:
    """The type that the network computes in; weights, moments and loss stay float32."""
    if config.precision == "auto":
        return mx.float32 if mx.default_device() == mx.Device(mx.cpu) else mx.bfloat16
    return {"float32": mx.float32, "bfloat16": mx.bfloat16}[config.precision]


def cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Floats to `dtype`; labels and masks as they are."""
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


class FlowMatching:
    """t, x0, keep ~ key(seed, step);  x_t = a x1 + s x0;  loss = flow matching of the prediction at (x_t, t, inputs)."""

    buffers = ()

    def __init__(self, config: TrainConfig, network: nn.Module, data, rank: int, size: int):
        self.config, self.network, self.data, self.rank = config, network, data, rank
        if config.coupling != "independent" and len(next(iter(data.fixed.values()))) > 1:
            raise MlxflowError(f"The coupling '{config.coupling}' is for pictures without words and classes: with them it "
                               "skews the noise that each sees. Set coupling to independent.")
        self.process = config.process()
        self.path = path_of(self.process)
        self.draws = make_draws(config, rank, size, config.batch // size, data.shape)
        self.dtype = precision_of(config)

    def arrays(self, batch, step):
        images, *inputs = batch
        t, x0, keep = self.draws(key_for(self.config.seed, _SHARED, step),
                                 key_for(self.config.seed, _OWN, step, self.rank))
        x0, x1 = couple(self.config.coupling, x0, mx.array(images))
        return x1, x0, t, *self.network.dropped(tuple(map(mx.array, inputs)), keep)

    def loss(self, weights, x1, x0, t, *inputs):
        config = self.config
        x = self.path.sample(x0, x1, t)
        if self.dtype != mx.float32:
            weights = {n: w.astype(self.dtype) for n, w in weights.items()}
            x, inputs = x.astype(self.dtype), [cast(v, self.dtype) for v in inputs]
        self.network.update(tree_unflatten(list(weights.items())))
        output = self.network(x, t, *inputs).astype(mx.float32)
        losses = flow_matching(output, config.prediction, self.path, x0, x1, t, cap=config.weight_cap,
                               contrast=config.contrast)
        return losses.mean(), list(by_time_bin(losses, t, BINS))

    def settle(self, before, sums, step):
        return {}

    def entries(self, sums):
        return {"bins": [round(float(s / c), 5) if c else None for s, c in zip(*sums)]}

    def validate(self, network):
        """The loss of the averaged weights on `val`, and on as many fixed training pictures ("seen")."""
        predict = mx.compile(network)
        return {name: validation_loss(predict, self.process, *part) for name, part in self.data.fixed.items()}

    def sheet(self, network):
        from mlxflow.sampling.output import grid

        inputs, captions, count, columns = self.data.examples(self.config)
        values = sample_sheet(network, self.process, inputs, count, self.data.shape)
        return grid(self.data.pictures(values), columns, captions)
