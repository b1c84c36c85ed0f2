"""Does a drawn picture find its own among all the real ones? The distance, the rank of the right one, and recall.

Pictures are compared as premultiplied RGBA in [0, 1], averaged over 32x32 cells. Since a picture that is a little
off is not a wrong one, the drawn picture q is also moved and scaled, and its best fit counts:

    d(q, r) = min over scales s and shifts (dx, dy) of RMS( cells(q moved by (dx, dy), scaled by s) - cells(r) ),

s about the middle and dx, dy in cells (of two pixels, for 64) from VERSIONS; what comes in from outside is
transparent. Both are exact averages over areas, since a pixel is a square of one colour: a 1-D operator `[32, S]` for
each axis. The real pictures stay as they are, so every one of them is judged by the same 61 versions.
`mlxflow eval --check-measure` (mlxflow/evaluation/check.py) shows what the distance forgives.
"""

import math
from collections.abc import Sequence

import numpy as np

from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx

CELLS = 32
# Scale: shifts along each axis. Half a cell is one pixel of 64; scaled versions make do with whole ones.
VERSIONS = {1.0: (-1, -0.5, 0, 0.5, 1)} | dict.fromkeys((0.9, 0.95, 1.05, 1.1), (-1, 0, 1))
# Pictures compared at once: 61 versions of each make 16 MB.
CHUNK = 16


def unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[..., 4]` straight alpha -> float32 `[..., 4]` in [0, 1], colour times alpha."""
    values = pixels.astype(np.float32) / 255
    values[..., :3] *= values[..., 3:]
    return values


def operator(size: int, cells: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Float32 `[cells, size]`: the averages over `cells` equal parts of a line of `size` pixels that was scaled
    about its middle, then shifted by `shift` pixels; outside it is 0."""
    edges = np.linspace(0, size, cells + 1)
    source = (edges - size / 2 - shift) / scale + size / 2
    covered = np.clip(source[:, None] - np.arange(size), 0, 1)
    return (np.diff(covered, axis=0) * (cells * scale / size)).astype(np.float32)


class Gallery:
    """The real pictures that drawn ones are compared with: uint8 `[N, S, S, 4]`, straight alpha."""

    def __init__(self, pictures: np.ndarray):
        if pictures.ndim != 4 or pictures.shape[1] != pictures.shape[2] or pictures.shape[3] != 4 or not len(pictures):
            raise MlxflowError(f"Pictures to compare with must be [N, S, S, 4], not {list(pictures.shape)}.")
        self.size = pictures.shape[1]
        self.cells = min(CELLS, self.size)
        cell = self.size / self.cells
        plain = mx.array(operator(self.size, self.cells))
        self.operators = [mx.array(np.stack([operator(self.size, self.cells, scale, shift * cell) for shift in shifts]))
                          for scale, shifts in VERSIONS.items()]
        parts = []
        for start in range(0, len(pictures), CHUNK):
            parts.append(_apply(plain, pictures[start : start + CHUNK]).reshape(-1, self.cells**2 * 4))
            mx.eval(parts[-1])
        self.real = mx.concatenate(parts)
        # Nearer to zero the sums of squares round less; the distances are the same.
        self.mean = self.real.mean(0)
        self.real = self.real - self.mean
        self.squares = mx.square(self.real).sum(1)

    def __len__(self) -> int:
        return self.real.shape[0]

    def versions(self, pictures: np.ndarray) -> mx.array:
        """The moved and scaled versions of pictures `[Q, S, S, 4]`, as cells less the mean of the real ones:
        float32 `[Q, 61, 32 * 32 * 4]`."""
        made = []
        for op in self.operators:
            n, c, size = op.shape
            x = _apply(op.reshape(n * c, size), pictures).reshape(-1, n, c, n, c, 4).transpose(0, 1, 3, 2, 4, 5)
            made.append(x.reshape(-1, n * n, c * c * 4) - self.mean)
        return mx.concatenate(made, axis=1)

    def distances(self, pictures: np.ndarray) -> np.ndarray:
        """d(q, r) of drawn pictures `[Q, S, S, 4]` (uint8) to each real one: float32 `[Q, N]`, 0 to 1."""
        if pictures.shape[1:] != (self.size, self.size, 4):
            raise MlxflowError(f"The pictures are {list(pictures.shape[1:])}, those to compare with "
                               f"{[self.size, self.size, 4]}.")
        rows = [np.zeros((0, len(self)), np.float32)]
        for start in range(0, len(pictures), CHUNK):
            v = self.versions(pictures[start : start + CHUNK])
            products = v.reshape(-1, v.shape[2]) @ self.real.T
            # |q - r|^2 less |r|^2, which is the same for every version.
            least = (mx.square(v).sum(2)[..., None] - 2 * products.reshape(*v.shape[:2], -1)).min(1)
            rows.append(np.array(mx.sqrt(mx.maximum(least + self.squares[None], 0) / v.shape[2])))
        return np.concatenate(rows)


def _apply(op: mx.array, pictures: np.ndarray) -> mx.array:
    """op `[P, S]` on both axes of uint8 `[Q, S, S, 4]`: float32 `[Q, P, P, 4]`."""
    x = mx.array(unit(pictures))
    count, size = x.shape[:2]
    rows = op @ x.reshape(count, size, size * 4)
    columns = rows.reshape(count, -1, size, 4).transpose(0, 1, 3, 2) @ op.T
    return columns.transpose(0, 1, 3, 2)


def ranks(distances: np.ndarray, right: Sequence[Sequence[int]]) -> np.ndarray:
    """How many wrong pictures are at least as near as the nearest right one: int `[Q]`; 0 means found.

    distances `[Q, N]`; right[q] are the numbers of the pictures that are right for q, one or more.
    """
    found = []
    for row, own in zip(distances, right):
        wrong = np.ones(len(row), bool)
        wrong[list(own)] = False
        found.append((row[wrong] <= row[list(own)].min()).sum())
    return np.array(found, int)


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927): the p for which |hits/n - p| = z sqrt(p (1 - p) / n)."""
    if count == 0:
        return 0.0, 1.0
    p, s = hits / count, z * z / count
    middle, half = p + s / 2, z * math.sqrt(p * (1 - p) / count + s / (4 * count))
    return max(0.0, (middle - half) / (1 + s)), min(1.0, (middle + half) / (1 + s))


def share(hits: int, count: int) -> dict:
    """{"value", "low", "high"}: a share in per cent with its 95 % interval, to a tenth."""
    low, high = wilson(hits, count)
    value = hits / count if count else 0.0
    return {"value": round(100 * value, 1), "low": round(100 * low, 1), "high": round(100 * high, 1)}


def recall(rank: np.ndarray, at: Sequence[int] = (1, 5)) -> dict:
    """{"n", "R@1": share, "R@5": share} from ranks `[Q]`."""
    return {"n": len(rank)} | {f"R@{k}": share(int((rank < k).sum()), len(rank)) for k in at}
