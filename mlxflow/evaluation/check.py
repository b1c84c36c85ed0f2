"""Is the measure sound? Real pictures that were shifted, scaled, blurred or noised must still be found.

Each change is done to every picture of the gallery, and the changed picture is looked for among all that are
unchanged, as a drawn one is. What a drawn picture may be off by without loss can be read from this table.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from mlxflow.data.images import premultiply, unpremultiply
from mlxflow.evaluation.retrieval import Gallery, operator, ranks, recall


def changes(size: int, seed: int = 0) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is done to pictures, uint8 `[N, S, S, 4]` straight alpha to the same; pixels are those of S = 64."""
    pixel = size / 64
    return {
        "unchanged": lambda x: x,
        "shifted by 1 pixel": lambda x: moved(x, shift=(pixel, pixel)),
        "shifted by 2 pixels": lambda x: moved(x, shift=(2 * pixel, -2 * pixel)),
        "shifted by 3 pixels": lambda x: moved(x, shift=(3 * pixel, 3 * pixel)),
        "scaled to 90 %": lambda x: moved(x, scale=0.9),
        "scaled to 93 %": lambda x: moved(x, scale=0.93),
        "scaled to 110 %": lambda x: moved(x, scale=1.1),
        "scaled to 85 %": lambda x: moved(x, scale=0.85),
        "blurred to 16x16": lambda x: blurred(x, 16),
        "blurred to 8x8": lambda x: blurred(x, 8),
        "blurred to 6x6": lambda x: blurred(x, 6),
        "noise of 0.25": lambda x: noised(x, 0.25, seed),
        "noise of 0.5": lambda x: noised(x, 0.5, seed),
        "turned by 5 degrees": lambda x: turned(x, 5),
        "turned by 10 degrees": lambda x: turned(x, 10),
        "shifted by 2 pixels, scaled to 95 %, blurred to 16x16":
            lambda x: blurred(moved(x, scale=0.95, shift=(-2 * pixel, 2 * pixel)), 16),
    }


def check_measure(pictures: np.ndarray, limit: int | None = None,
                  progress: Callable[[float], None] = lambda done: None) -> Iterator[tuple[str, dict]]:
    """(change, recall) for each of `changes` on pictures uint8 `[N, S, S, 4]`, found among themselves.

    At most `limit` of them, evenly spread, are changed and looked for; always among all.
    """
    gallery = Gallery(pictures)
    take = np.linspace(0, len(pictures) - 1, min(limit or len(pictures), len(pictures))).astype(int)
    todo = changes(pictures.shape[1])
    for done, (name, change) in enumerate(todo.items()):
        progress(done / len(todo))
        yield name, recall(ranks(gallery.distances(change(pictures[take])), [[i] for i in take]))
    progress(1.0)


def moved(pictures: np.ndarray, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Scaled about the middle, then shifted right and down by `shift` pixels."""
    size = pictures.shape[1]
    across, down = (operator(size, size, scale, pixels) for pixels in shift)
    unit = (premultiply(pictures) + 1) / 2
    return unpremultiply(2 * np.einsum("ys,nstc,xt->nyxc", down, unit, across, optimize=True) - 1)


def blurred(pictures: np.ndarray, cells: int) -> np.ndarray:
    """Averaged to cells x cells and back up, linearly."""
    size = pictures.shape[1]
    small = operator(size, cells)
    up = np.stack([np.interp((np.arange(size) + 0.5) * cells / size - 0.5, np.arange(cells), row)
                   for row in np.eye(cells)], axis=1).astype(np.float32)
    both = up @ small
    return unpremultiply(np.einsum("ys,nstc,xt->nyxc", both, premultiply(pictures), both, optimize=True))


def noised(pictures: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """With normal noise of `sigma` on every premultiplied value in [-1, 1], clipped."""
    noise = np.random.default_rng([seed, 11]).standard_normal(pictures.shape, dtype=np.float32)
    return unpremultiply(premultiply(pictures) + sigma * noise)


def turned(pictures: np.ndarray, degrees: float) -> np.ndarray:
    """Turned to the left about the middle."""
    made = [Image.fromarray(picture).convert("RGBa").rotate(degrees, Image.Resampling.BILINEAR).convert("RGBA")
            for picture in pictures]
    return np.stack([np.asarray(image) for image in made])
