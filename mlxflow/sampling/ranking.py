"""Which of several pictures of a prompt fits it best, by the model that drew them.

A model that was told the prompt predicts a picture of it better than one that was told nothing. For a picture
x1 and fixed pairs of noise x0 and time t, with x_t = a x1 + s x0,

    score(x1) = mean over pairs of (|D(x_t, t, null) - x1|^2 - |D(x_t, t, prompt) - x1|^2) / |D(x_t, t, null)
    - x1|^2,

D being the prediction of the data: the share of the error that the words take away. It is the denoising
estimate of the pointwise mutual information of picture and prompt (Kong et al. 2023, "Information-theoretic
diffusion"; Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier"), and every picture is
judged by the same noises.
"""

from collections.abc import Sequence

import numpy as np

from mlxflow.data.images import premultiply
from mlxflow.flow import guidance as guide
from mlxflow.runtime import mx
from mlxflow.sampling.pipeline import Pipeline

# Early times, where the words decide what a picture is; each with a noise of its own.
TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_SEED = 23


def scores(
    pipeline: Pipeline, prompt: str, pictures: np.ndarray, times: Sequence[float] = TIMES, seed: int = 0
) -> np.ndarray:
    """How well pictures, uint8 `[N, S, S, 4]` with straight alpha, fit the prompt: float64 `[N]`, more is
    better.

    Two evaluations of the network for each picture and time. Raises MlxflowError for a prompt without a known
    word.
    """
    condition, path = pipeline.encode(prompt), pipeline.path
    generator = np.random.default_rng([seed, _SEED])
    noise = mx.array(generator.standard_normal((len(times), *pictures.shape[1:]), dtype=np.float32))
    t = mx.array(times, dtype=mx.float32)
    both, count = (
        guide.join(guide.expand(condition, len(times)), guide.expand(pipeline.null, len(times))),
        len(times),
    )
    found = []
    for picture in premultiply(pictures):
        x1 = mx.broadcast_to(mx.array(picture), noise.shape)
        x = path.sample(noise, x1, t)
        x, twice = mx.concatenate([x, x]), mx.concatenate([t, t])
        estimate = path.data_from_velocity(x, pipeline.velocity(x, twice, both), twice)
        error = mx.square(estimate.astype(mx.float32) - mx.concatenate([x1, x1])).mean((1, 2, 3))
        told, untold = np.split(np.array(error, dtype=np.float64), [count])
        found.append(float(((untold - told) / np.maximum(untold, 1e-9)).mean()))
    return np.array(found)


def best(pipeline: Pipeline, prompt: str, pictures: np.ndarray, count: int) -> list[int]:
    """The numbers of the `count` pictures that fit the prompt best, the best first; equal ones in their
    order.
    """
    return np.argsort(-scores(pipeline, prompt, pictures), kind="stable")[:count].tolist()
