"""Pictures from files, made safe and equal: one size, 8 bits, RGBA.

Networks see *premultiplied* RGBA in [-1, 1] (colour times alpha), so that a transparent pixel has one value
only and edges interpolate; files hold *straight* alpha. Both directions are here.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from mlxflow.errors import MlxflowError

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp")
FORMATS = ("PNG", "WEBP", "JPEG", "GIF", "BMP")
# A small file can hold a huge picture. 50 megapixels is a large camera's photo and 200 MB decoded.
MAX_PIXELS = 50_000_000


class HasPath(Protocol):
    """Anything that knows its file, such as `mlxflow.data.folder.Record`."""

    @property
    def path(self) -> Path: ...


def load_rgba(path: str | Path, size: int = 64) -> np.ndarray:
    """The picture as uint8 [size, size, 4], straight alpha, colour 0 where alpha is 0.

    The first frame of an animation; the EXIF orientation is applied; what is not square is padded with
    transparent pixels. A picture that already has the size keeps its pixels.
    Raises MlxflowError for a file that is missing, broken, no picture, or above MAX_PIXELS.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            rgba = to_rgba(image)
    except FileNotFoundError:
        raise MlxflowError(f"{path}: there is no such picture.") from None
    except Image.DecompressionBombError:
        limit = MAX_PIXELS // 1_000_000
        raise MlxflowError(
            f"{path}: the picture has more than {limit} megapixels; make it smaller."
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError) as error:
        # Pillow's readers raise all of these on damaged files.
        raise MlxflowError(
            f"{path}: not a picture that can be read, replace or remove it ({error})."
        ) from None
    return fit(rgba, size)


def load_all(
    records: Sequence[HasPath], size: int = 64, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """All pictures as uint8 [N, size, size, 4] in the order of `records`, decoded by several threads.

    `progress(done, total)` is called after each one. Raises MlxflowError for the first one that fails.
    """
    images = np.empty((len(records), size, size, 4), np.uint8)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for i, image in enumerate(pool.map(lambda record: load_rgba(record.path, size), records)):
                images[i] = image
                if progress:
                    progress(i + 1, len(records))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def fit(rgba: Image.Image, size: int) -> np.ndarray:
    """An RGBA picture of any size, fitted into the middle of size x size: uint8, straight alpha."""
    if rgba.size != (size, size):
        # Pillow resizes RGBA premultiplied, so hidden colours do not bleed into the edges. Halving, thirding
        # and so on is the mean of a block: no ringing, and exactly the embedded tiles from Noto's own font.
        whole = max(rgba.size) % size == 0
        method = Image.Resampling.BOX if whole else Image.Resampling.LANCZOS
        inner = ImageOps.contain(rgba, (size, size), method)
        rgba = Image.new("RGBA", (size, size))
        rgba.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    pixels = np.array(rgba)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def premultiply(pixels: np.ndarray) -> np.ndarray:
    """uint8 [..., 4] straight alpha -> float32 [..., 4] in [-1, 1]: colour * alpha and alpha."""
    alpha = pixels[..., 3:].astype(np.float32)
    colour = pixels[..., :3] * (alpha * (2 / 255 / 255)) - 1
    return np.concatenate([colour, alpha * (2 / 255) - 1], axis=-1).astype(np.float32)


def unpremultiply(values: np.ndarray) -> np.ndarray:
    """float32 [..., 4] premultiplied, about [-1, 1] -> uint8 [..., 4] straight alpha.

    Values outside the range are clipped, colour to at most its alpha. The inverse of `premultiply` up to the
    rounding of colours under a low alpha; pixels whose alpha rounds to 0 become 0.
    """
    unit = (np.asarray(values, np.float32) + 1) / 2
    alpha = np.clip(unit[..., 3:], 0, 1)
    colour = np.clip(unit[..., :3], 0, alpha) / np.maximum(alpha, 1e-6)
    pixels = np.rint(np.concatenate([colour, alpha], axis=-1) * 255).astype(np.uint8)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def to_rgba(image: Image.Image) -> Image.Image:
    """The first frame of any kind of picture, upright, as 8-bit RGBA with straight alpha."""
    image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        grey = np.clip(np.asarray(image, np.int64) // 257, 0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    elif image.mode == "CMYK":
        image = image.convert("RGB")
    return image.convert("RGBA")
