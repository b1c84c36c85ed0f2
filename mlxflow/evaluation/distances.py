"""Is a drawn picture a training picture again? The copy distance.

It is the distance of retrieval.py to the nearest training picture, RMS of premultiplied RGBA in [0, 1], so that a
copy that was moved or scaled a little counts as one. A picture nearer than COPY is called a copy. For scale: after a
blur to 16x16 the median real picture is 0.107 from itself, and to the nearest other base emoji the median is 0.197;
18 % have one nearer than 0.1 (clock faces, squares, yellow faces), so that a plain new picture may be called a copy
without being one. `ratio` is nearest over second nearest: near 1 where several training pictures look alike.
"""

from typing import NamedTuple

import numpy as np

COPY = 0.1


class Nearest(NamedTuple):
    """For each drawn picture `[Q]`: the distance, the number of the nearest training picture, and the ratio."""

    distance: np.ndarray
    index: np.ndarray
    ratio: np.ndarray

    @property
    def copies(self) -> np.ndarray:
        """Which of them are copies, bool `[Q]`."""
        return self.distance < COPY


def nearest(distances: np.ndarray) -> Nearest:
    """From the distances `[Q, N]` of `Gallery.distances` to all training pictures."""
    index = distances.argmin(1)
    both = np.sort(distances, axis=1)[:, :2]
    return Nearest(both[:, 0], index, both[:, 0] / np.maximum(both[:, -1], 1e-12))
