"""A picture as the bytes of a file, as the page and the API ask for it."""

import io

import numpy as np
from PIL import Image

from mlxflow.sampling import resize
from mlxflow.sampling.formats import encode
from mlxflow.sampling.output import on_background
from mlxflow.sampling.platforms import PLATFORMS, encode_for

TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg", "svg": "image/svg+xml"}
# 1024 is what many programs ask of OpenAI's API.
SIZES = (*resize.SIZES, 1024)


def quick_png(pixels: np.ndarray, size: int | None = None) -> bytes:
    """PNG without metadata, for the page to show; as large as it was drawn for None."""
    file = io.BytesIO()
    resize.resized(Image.fromarray(pixels), size or len(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def file_of(
    pixels: np.ndarray,
    kind: str,
    size: int,
    made_by: dict,
    *,
    background: str | None = None,
    quality: int = 100,
) -> bytes:
    """The bytes of a file of `kind` (a key of TYPES), which says what made it unless it is JPEG.

    pixels: uint8 [S, S, 4], straight alpha. quality: of WebP and JPEG, 0 to 100; WebP of 100 is lossless.
    JPEG needs a background. Raises MlxflowError where vtracer is missing for SVG.
    """
    drawn = Image.fromarray(pixels)
    image = on_background(resize.resized(drawn, size), background)
    if kind == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=min(quality, 95), subsampling=0)
        return file.getvalue()
    return encode(image, f".{kind}", made_by, made_by["prompt"], quality=quality, trace=drawn)


def file_for(pixels: np.ndarray, platform: str, made_by: dict) -> tuple[bytes, str]:
    """The bytes of the file that a chat takes (a key of PLATFORMS), and their kind."""
    kind = next(iter(PLATFORMS[platform].most)).removeprefix(".")
    return encode_for(Image.fromarray(pixels), platform, f".{kind}", made_by, made_by["prompt"]), kind
