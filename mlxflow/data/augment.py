"""Augmentation of emoji tiles, drawn from a generator that the caller seeds."""

import re

import numpy as np
from PIL import Image

# A mirrored picture would belie these words of its caption.
_HANDED = re.compile(r"\b(left|right|leftwards|rightwards|clockwise|flag|text|letter|letters|symbol|sign|button|keycap|"
                     r"clock|watch|o.clock|thirty|word|number|\d+)\b", re.IGNORECASE)


def may_flip(caption: str) -> bool:
    """Whether a picture with this caption may be mirrored: nothing in it speaks of sides, text, flags or clocks."""
    return _HANDED.search(caption) is None


def shifted(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """uint8 `[S, S, 4]` moved right by dx and down by dy pixels; transparent pixels come in."""
    out = np.zeros_like(image)
    size = image.shape[0]
    out[max(dy, 0):size + min(dy, 0), max(dx, 0):size + min(dx, 0)] = (
        image[max(-dy, 0):size - max(dy, 0), max(-dx, 0):size - max(dx, 0)])
    return out


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """uint8 `[S, S, 4]` straight alpha, drawn larger (factor > 1, edges cut) or smaller about its centre."""
    size = image.shape[0]
    half = size / factor / 2
    box = (size / 2 - half, size / 2 - half, size / 2 + half, size / 2 + half)
    # "RGBa" is premultiplied, so that hidden colours do not bleed into the edges.
    picture = Image.fromarray(image, "RGBA").convert("RGBa")
    moved = picture.transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
    return np.array(moved.convert("RGBA"))


def augment(image: np.ndarray, caption: str, generator: np.random.Generator, *, shift: int = 0, scale: float = 0.0,
            flip: float = 0.0) -> np.ndarray:
    """One random variant of a uint8 `[S, S, 4]` tile (straight alpha).

    shift is the largest move in pixels, scale the largest relative change of size, flip the chance of mirroring
    (only where `may_flip`). The same generator state gives the same picture.
    """
    dx, dy = generator.integers(-shift, shift + 1, size=2) if shift else (0, 0)
    factor = 1 + generator.uniform(-scale, scale) if scale else 1.0
    mirror = flip > 0 and generator.random() < flip and may_flip(caption)
    if factor != 1.0:
        image = scaled(image, factor)
    if mirror:
        image = np.ascontiguousarray(image[:, ::-1])
    return shifted(image, int(dx), int(dy)) if dx or dy else image
