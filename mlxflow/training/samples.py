"""Sample sheets during training: fixed prompts from fixed noise, so that sheets of different steps compare."""

from collections.abc import Callable, Sequence

from mlxflow.runtime import mx

import numpy as np  # noqa: E402

from mlxflow.data.images import unpremultiply  # noqa: E402
from mlxflow.flow.paths import path_by_name  # noqa: E402
from mlxflow.sampling.pipeline import sample  # noqa: E402
from mlxflow.weights import velocity_of  # noqa: E402

STEPS, GUIDANCE = 16, 3.0


def sample_sheet(network, process: dict, encode: Callable[[str], tuple[np.ndarray, np.ndarray]],
                 prompts: Sequence[str], size: int) -> np.ndarray:
    """One picture of each prompt, uint8 `[N, size, size, 4]`, straight alpha; 16 Euler steps with guidance 3."""
    encoded = [encode(prompt) for prompt in prompts]
    vectors, mask = (mx.array(np.stack(part)) for part in zip(*encoded))
    condition = network.encode(vectors, mask)
    null = network.encode(vectors, mx.zeros_like(mask))
    noise = np.random.default_rng([0, 8]).standard_normal((len(prompts), size, size, 4), dtype=np.float32)
    final = sample(velocity_of(network, process), condition, null, mx.array(noise), STEPS, "euler", GUIDANCE,
                   path=path_by_name(process["path"]), last=process["floor"])
    return unpremultiply(np.clip(np.array(final), -1, 1))
