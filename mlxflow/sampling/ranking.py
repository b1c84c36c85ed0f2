"""Which of several pictures of a prompt is the best, by the model that drew them.

A good candidate is one that the model itself holds likely: p(picture | prompt) is high. Two estimates of it, each
brought to mean 0 and deviation 1 over the candidates, are added:

- agreement: the candidates are samples of p, so it is high where they are dense. Less the mean distance to the
  others, RMS of premultiplied 32 x 32 thumbnails. (The least expected distance to a sample is the minimum Bayes
  risk; Kumar & Byrne 2004 choose translations so.)
- loss: less the error of denoising the picture when told the prompt, the mean over times and noises of
  |D(x_t, t, prompt) - x1|^2 with x_t = a x1 + s x0, which bounds -log p (Ho et al. 2020; Li et al. 2023 classify
  by it). Every picture is judged by the same pairs of opposite noises, early on the path, where words decide.

Choosing by what the words take off the error, |D(x_t, t, null) - x1|^2 - |D(x_t, t, prompt) - x1|^2, was tried
too, and the text encoder's sketch: neither added to these two. `benchmarks/ranking.py` measures what the ranking is
worth.
"""

from collections.abc import Sequence

import numpy as np

from mlxflow.data.images import premultiply
from mlxflow.flow import guidance as guide
from mlxflow.runtime import mx
from mlxflow.sampling.pipeline import Pipeline
from mlxflow.sampling.resize import area

# Each with one noise and its opposite.
TIMES = (0.05, 0.1, 0.15, 0.2, 0.25)
THUMBNAIL = 32
_SEED = 23


def scores(
    pipeline: Pipeline, prompt: str, pictures: np.ndarray, times: Sequence[float] = TIMES, seed: int = 0
) -> np.ndarray:
    """How good pictures of a prompt are beside each other: float64 `[N]`, more is better, mean 0.

    pictures: uint8 `[N, S, S, 4]`, straight alpha. Two evaluations of the network for each picture and time. Of two
    pictures the loss alone decides, and one alone has 0. Raises MlxflowError for a prompt without a known word.
    """
    return together(agreement(pictures), -losses(pipeline, prompt, pictures, times, seed))


def best(pipeline: Pipeline, prompt: str, pictures: np.ndarray, count: int) -> list[int]:
    """The numbers of the `count` best pictures, the best first; equal ones in their order."""
    return np.argsort(-scores(pipeline, prompt, pictures), kind="stable")[:count].tolist()


def losses(
    pipeline: Pipeline, prompt: str, pictures: np.ndarray, times: Sequence[float] = TIMES, seed: int = 0
) -> np.ndarray:
    """The mean squared error of denoising each picture when told the prompt: float64 `[N]`."""
    path, count = pipeline.path, 2 * len(times)
    condition = guide.expand(pipeline.encode(prompt), count)
    generator = np.random.default_rng([seed, _SEED])
    noise = mx.array(generator.standard_normal((len(times), *pictures.shape[1:]), dtype=np.float32))
    noise = mx.concatenate([noise, -noise])
    t = mx.array([*times, *times], dtype=mx.float32)
    found = []
    for picture in premultiply(pictures):
        x1 = mx.broadcast_to(mx.array(picture), noise.shape)
        x = path.sample(noise, x1, t)
        estimate = path.data_from_velocity(x, pipeline.velocity(x, t, condition), t)
        found.append(mx.square(estimate.astype(mx.float32) - x1).mean().item())
    return np.array(found)


def agreement(pictures: np.ndarray) -> np.ndarray:
    """Less the mean distance of each picture to the others: float64 `[N]`, at most 0."""
    small = premultiply(pictures).astype(np.float64)
    cells = min(THUMBNAIL, pictures.shape[1])
    for _ in range(2):  # rows, then columns
        small = np.moveaxis(area(np.moveaxis(small, 1, 0), cells), 0, 2)
    others = max(1, len(small) - 1)
    return np.array([-np.sqrt(np.square(small - one).mean((1, 2, 3))).sum() / others for one in small])


def together(*estimates: np.ndarray) -> np.ndarray:
    """The sum of estimates `[N]`, each less its mean and by its deviation; 0 where equal but for rounding."""
    total = np.zeros(len(estimates[0]))
    for values in estimates:
        deviation = values.std()
        if deviation > 1e-5 * np.abs(values).max():
            total += (values - values.mean()) / deviation
    return total
