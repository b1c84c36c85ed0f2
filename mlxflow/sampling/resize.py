"""Pictures of other sizes, without halos: resampled premultiplied, and never beyond what was there.

Larger: along each axis Catmull-Rom's cubic through four pixels (Keys 1981, a = -1/2), held between the two
nearest of them. The cubic keeps edges as sharp as they are, and the holding leaves no ringing: no light or
dark line beside an outline, on any background. Smaller: the exact average over the area that a pixel covers.
"""

import numpy as np
from PIL import Image

from mlxflow.data.images import premultiply, unpremultiply
from mlxflow.errors import MlxflowError

SIZES = (64, 128, 256, 512)


def check_size(size: int) -> int:
    """The size, if it is one of SIZES."""
    if size not in SIZES:
        raise MlxflowError(f"The size must be {', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]} pixels, not {size}.")
    return size


def cubic(line: np.ndarray, size: int) -> np.ndarray:
    """float32 `[N, ...]` to `[size, ...]` along the first axis, size >= N; the border repeats."""
    count = len(line)
    place = (np.arange(size) + 0.5) * (count / size) - 0.5
    left = np.floor(place).astype(int)
    f = (place - left).astype(np.float32).reshape(-1, *[1] * (line.ndim - 1))
    a, b, c, d = (line[np.clip(left + offset, 0, count - 1)] for offset in (-1, 0, 1, 2))
    value = b + 0.5 * f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))
    return np.clip(value, np.minimum(b, c), np.maximum(b, c))


def area(line: np.ndarray, size: int) -> np.ndarray:
    """float32 `[N, ...]` to `[size, ...]` along the first axis, size <= N: averages over equal parts."""
    edges = np.linspace(0, len(line), size + 1)
    covered = np.clip(edges[:, None] - np.arange(len(line)), 0, 1)
    weights = np.diff(covered, axis=0) * (size / len(line))
    return np.tensordot(weights.astype(np.float32), line, axes=1)


def resized(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """A picture, RGB or RGBA with straight alpha, at another size (of both sides, or width and height); the
    same one if it has the size."""
    width, height = (size, size) if isinstance(size, int) else size
    if image.size == (width, height):
        return image
    values = premultiply(np.asarray(image.convert("RGBA")))
    for wanted in (height, width):
        values = (cubic if wanted >= len(values) else area)(values, wanted).swapaxes(0, 1)
    made = Image.fromarray(unpremultiply(values))
    return made if image.mode == "RGBA" else made.convert("RGB")
