"""Sample sheets during training: fixed conditions from fixed noise, so that sheets of different steps compare."""

from mlxflow.runtime import mx

import numpy as np  # noqa: E402

from mlxflow.sampling.pipeline import GUIDE_UNTIL, sample  # noqa: E402
from mlxflow.weights import path_of, velocity_of  # noqa: E402

STEPS, GUIDANCE = 16, 3.0


def sample_sheet(network, process: dict, inputs: tuple[np.ndarray, ...], count: int,
                 shape: tuple[int, ...]) -> np.ndarray:
    """`count` samples float32 `[count, *shape]`; 16 Euler steps, with guidance 3 where there is a condition, as new
    pictures are drawn.

    inputs: the condition's, `[count, ...]` each; () for none.
    """
    inputs = tuple(map(mx.array, inputs))
    condition = network.encode(*inputs)
    null = network.encode(*network.dropped(inputs, mx.zeros((count,), dtype=mx.bool_)))
    noise = np.random.default_rng([0, 8]).standard_normal((count, *shape), dtype=np.float32)
    final = sample(velocity_of(network, process), condition, null, mx.array(noise), STEPS, "euler",
                   GUIDANCE if inputs else 1.0, guide_until=GUIDE_UNTIL if network.kind == "text-unet" else 1.0,
                   path=path_of(process), last=process["floor"])
    return np.array(final)
