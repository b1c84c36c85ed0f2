"""Which of several pictures of a prompt is the best, by the model that drew them.

The candidates are samples of p(picture | prompt) as the model has it, and a good one is likely under it: it stands where
they are dense. So a picture's score is less its mean distance to the others, RMS of premultiplied 32 x 32 thumbnails
(the least expected distance to a sample is the minimum Bayes risk; Kumar & Byrne 2004 choose translations so). It needs
no evaluation of the network. Of two pictures neither is preferred.

Tried as well, and left out since `benchmarks/ranking.py` showed no gain or a loss by it: the error of denoising when told
the prompt, which bounds -log p; what the words take off that error; and the distance to the text encoder's sketch.
"""

import numpy as np

from mlxflow.data.images import premultiply
from mlxflow.sampling.resize import area

THUMBNAIL = 32


def scores(pictures: np.ndarray) -> np.ndarray:
    """How good pictures of one prompt are beside each other: float64 `[N]`, at most 0, more is better.

    pictures: uint8 `[N, S, S, 4]`, straight alpha. One alone has 0.
    """
    small = premultiply(pictures).astype(np.float64)
    cells = min(THUMBNAIL, pictures.shape[1])
    for _ in range(2):  # rows, then columns
        small = np.moveaxis(area(np.moveaxis(small, 1, 0), cells), 0, 2)
    others = max(1, len(small) - 1)
    return np.array([-np.sqrt(np.square(small - one).mean((1, 2, 3))).sum() / others for one in small])


def best(pictures: np.ndarray, count: int) -> list[int]:
    """The numbers of the `count` best pictures, the best first; equal ones in their order."""
    # Two that are equally good differ by rounding, which must not choose.
    return np.argsort(-scores(pictures).round(9), kind="stable")[:count].tolist()
