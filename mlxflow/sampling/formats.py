"""Pictures and animations to the bytes of a file, by its ending: .png .apng .webp .gif .svg.

What made a picture is written into each of them (metadata.py), or left out. Encoding is deterministic: the
same picture is the same bytes. PNG, APNG and WebP are lossless (WebP lossy below a quality of 100). GIF has
255 colours and pixels that are there or not; SVG is traced by vtracer from a larger copy and is smooth at any
size.
"""

import io
import re
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling import metadata
from mlxflow.sampling.resize import resized

SUFFIXES = (".png", ".webp", ".gif", ".apng", ".svg")
ANIMATED = (".gif", ".webp", ".apng", ".png")
# vtracer follows outlines pixel by pixel: of a small picture it would draw the steps.
TRACED = 512


def suffix_of(name: str | PurePath, allowed: Sequence[str] = SUFFIXES) -> str:
    """The ending of a file's name, if pictures are written so."""
    path = PurePath(name)
    if path.suffix.lower() not in allowed:
        raise MlxflowError(f"Pictures are written as {', '.join(s[1:].upper() for s in allowed)}: "
                           f"'{path.name}' should end in {', '.join(allowed[:-1])} or {allowed[-1]}.")
    return path.suffix.lower()


def encode(image: Image.Image, suffix: str, made_by: dict | None = None, description: str = "", *,
           colours: int = 256, quality: int = 100, trace: Image.Image | None = None) -> bytes:
    """The file of a picture, RGB or RGBA with straight alpha.

    made_by: what goes into the metadata (None: nothing does). colours: fewer than 256 make PNG a palette, and
    GIF's smaller. quality: of WebP, 0 to 100; 100 is lossless. trace: what SVG is traced from, if not the
    picture itself (a picture before it was made larger). Raises MlxflowError for another suffix, or SVG
    without vtracer.
    """
    if suffix == ".svg":
        return _svg(trace or image, image.size, made_by, description)
    return encode_frames([image], [0], suffix, made_by, description, colours=colours, quality=quality)


def encode_frames(frames: Sequence[Image.Image], milliseconds: Sequence[int], suffix: str,
                  made_by: dict | None = None, description: str = "", *, colours: int = 256,
                  quality: int = 100) -> bytes:
    """The file of an animation that repeats for ever; one frame alone is a still picture. See `encode`."""
    file, more = io.BytesIO(), {}
    if len(frames) > 1:
        more = {"save_all": True, "append_images": None, "duration": list(milliseconds), "loop": 0}
    if suffix in (".png", ".apng"):
        frames = frames if colours >= 256 else [to_palette(frame, colours) for frame in frames]
        if made_by is not None:
            more["pnginfo"] = metadata.png_chunks(made_by, description)
        kind = "PNG"
        if len(frames) > 1:
            more |= {"blend": 0, "disposal": 0}  # each frame replaces the one before, alpha and all
    elif suffix == ".webp":
        more |= {"lossless": True, "exact": True, "quality": 80, "method": 4} if quality >= 100 else \
            {"quality": quality, "alpha_quality": max(50, quality), "method": 4}
        if made_by is not None:
            more["xmp"] = metadata.xmp(made_by, description)
        kind = "WEBP"
    elif suffix == ".gif":
        frames = [to_palette(frame, min(colours, 256), hard=True) for frame in frames]
        if made_by is not None:
            more["comment"] = metadata.comment(made_by, description)
        if "transparency" in frames[0].info:
            more |= {"transparency": 0, "disposal": 2}
        kind = "GIF"
    else:
        raise MlxflowError(f"There is no format '{suffix}': use {', '.join(SUFFIXES)}.")
    if len(frames) > 1:
        more["append_images"] = frames[1:]
    if kind == "PNG" and colours < 256 or kind == "GIF":
        more["optimize"] = kind == "PNG"
    frames[0].save(file, kind, **more)
    return file.getvalue()


def to_palette(image: Image.Image, colours: int, hard: bool = False) -> Image.Image:
    """The picture in at most `colours` colours. hard: its pixels are there or not, and index 0 is what is
    not.
    """
    if image.mode != "RGBA":
        return image.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if not hard:
        return image.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    pixels = np.asarray(image)
    there = pixels[..., 3] >= 128
    # The palette is that of visible pixels alone: a strip of them, each as often as it is there.
    strip = pixels[there][None, :, :3] if there.any() else np.zeros((1, 1, 3), np.uint8)
    chosen = Image.fromarray(np.ascontiguousarray(strip)).quantize(
        max(2, colours - 1), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    index = np.zeros(there.shape, np.uint8)
    index[there] = np.asarray(chosen)[0][: there.sum()] + 1
    made = Image.fromarray(index, "P")
    made.putpalette([0, 0, 0, *chosen.getpalette()][: 3 * 256])
    made.info["transparency"] = 0
    return made


def check_svg() -> None:
    """Raises MlxflowError where SVG cannot be written."""
    try:
        import vtracer  # noqa: F401
    except ImportError:
        raise MlxflowError("SVG needs vtracer: pip install 'mlxflow[svg]'.") from None


def _svg(image: Image.Image, size: tuple[int, int], made_by: dict | None, description: str) -> bytes:
    check_svg()
    import vtracer

    scale = max(1, TRACED // max(image.size))
    large = resized(image.convert("RGBA"), (image.width * scale, image.height * scale))
    pixels = np.array(large)
    # A path is opaque: an outline in the middle of the soft edge is where the eye sees it.
    pixels[..., 3] = np.where(pixels[..., 3] >= 128, 255, 0)
    pixels[pixels[..., 3] == 0] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    # Specks of two pixels of the small picture are grain: without them, and with whole coordinates, the file is a
    # third to a half of what it would be, and looks cleaner.
    text = vtracer.convert_raw_image_to_svg(
        file.getvalue(), img_format="png", colormode="color", hierarchical="stacked", mode="spline",
        filter_speckle=3 * scale // 2, color_precision=6, layer_difference=24, path_precision=0)
    paths = re.sub(r"^.*?<svg[^>]*>", "", text, flags=re.DOTALL).replace("</svg>", "").strip()
    about = "" if made_by is None else metadata.svg_elements(made_by, description)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
            f'viewBox="0 0 {large.width} {large.height}">{about}\n{paths}\n</svg>\n').encode()
