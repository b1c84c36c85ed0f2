"""The pictures inside a colour emoji font: its own PNG strikes (CBDT or sbix), pixel for pixel.

A sequence of code points is shaped with HarfBuzz, which joins families, flags and skin tones into one glyph;
the glyph's picture is read from the font's tables. Nothing is drawn, so edges keep their colour and alpha.
Fonts that hold outlines (COLR, SVG) instead of pictures are refused.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mlxflow.data.cldr import to_text
from mlxflow.data.images import fit, to_rgba
from mlxflow.errors import MlxflowError

# Not a country: what a font draws for it is its sign for an unknown flag.
UNKNOWN_FLAG = "1F1FD-1F1FD"


def rasterize(
    font_path: str | Path, sequences: Iterable[str], size: int = 64
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield (code points, uint8 [size, size, 4] straight alpha) for each sequence such as "1F44B-1F3FB".

    None stands for what the font does not draw as one picture. From a font with strikes of several sizes the
    smallest one that is not below `size` is taken.
    Raises MlxflowError when the `fonts` extra is missing, and for a file that is no font or has no pictures.
    """
    font = ColourFont(
        font_path, size
    )  # not inside the generator: errors come before the first tile is asked for
    return ((code, font.picture(code)) for code in sequences)


class ColourFont:
    """A font file with its shaper and one strike of pictures."""

    def __init__(self, path: str | Path, size: int):
        hb, tt = _libraries()
        self.path, self.size = Path(path), size
        try:
            self._font = tt.TTFont(path, fontNumber=0, lazy=True)
            tables = set(self._font.keys())
        except (OSError, tt.TTLibError, ValueError, AssertionError) as error:
            raise MlxflowError(f"{path}: this is not a font file that can be read ({error}).") from None
        if {"CBDT", "CBLC"} <= tables:
            strike = _cbdt_strike
        elif "sbix" in tables:
            strike = _sbix_strike
        elif tables & {"COLR", "SVG "}:
            raise MlxflowError(
                f"{path}: this colour font holds outlines (COLR or SVG); mlxflow reads those with pictures"
                " (CBDT or sbix), such as NotoColorEmoji.ttf or Apple Color Emoji."
            )
        else:
            raise MlxflowError(f"{path}: this font has no colour glyphs; choose a colour emoji font.")
        try:
            self._png = strike(self._font, size)
        except Exception as error:  # noqa: BLE001 (fontTools raises anything on damaged tables)
            raise MlxflowError(f"{path}: the font's pictures cannot be read ({error!r}).") from None
        self._hb = hb
        self._shaper = hb.Font(hb.Face(hb.Blob.from_file_path(str(path)), 0))
        self._unknown_flag = self._glyph(UNKNOWN_FLAG)

    def picture(self, codepoints: str) -> np.ndarray | None:
        """uint8 [size, size, 4] straight alpha, or None when the font does not draw this as one picture."""
        glyph = self._glyph(codepoints)
        if glyph is None or glyph == self._unknown_flag:
            return None
        try:
            image = self._png(self._font.getGlyphName(glyph))
            return None if image is None else fit(_square(to_rgba(image)), self.size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MlxflowError(f"{self.path}: the picture of {codepoints} is damaged ({error}).") from None

    def _glyph(self, codepoints: str) -> int | None:
        """The one glyph that a sequence becomes, else None."""
        # Some fonts know a sequence only without the variation selector that asks for colour.
        for code in dict.fromkeys([codepoints, codepoints.replace("-FE0F", "")]):
            buffer = self._hb.Buffer()
            buffer.add_str(to_text(code))
            buffer.guess_segment_properties()
            buffer.flags = self._hb.BufferFlags.REMOVE_DEFAULT_IGNORABLES
            self._hb.shape(self._shaper, buffer)
            if len(buffer.glyph_infos) == 1 and buffer.glyph_infos[0].codepoint != 0:
                return buffer.glyph_infos[0].codepoint
        return None


def _libraries():
    try:
        import uharfbuzz
        from fontTools import ttLib
    except ImportError:
        raise MlxflowError("Reading a font needs two more packages: pip install 'mlxflow[fonts]'.") from None
    return uharfbuzz, ttLib


def _square(image: Image.Image) -> Image.Image:
    """Cut off empty margins as far as the picture becomes square: Noto's are 136 x 128 with nothing at the
    sides."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    inner = image.getchannel("A").getbbox()
    fits = inner is None or (
        inner[0] >= left and inner[1] >= top and inner[2] <= box[2] and inner[3] <= box[3]
    )
    return image.crop(box) if fits else image


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))


def _best(ppems: list[int], size: int) -> int:
    return min((ppem for ppem in ppems if ppem >= size), default=max(ppems))


def _cbdt_strike(font, size: int) -> Callable[[str], Image.Image | None]:
    ppems = [strike.bitmapSizeTable.ppemY for strike in font["CBLC"].strikes]
    glyphs = font["CBDT"].strikeData[ppems.index(_best(ppems, size))]

    def picture(name: str) -> Image.Image | None:
        glyph = glyphs.get(name)
        return _open(glyph.imageData) if hasattr(glyph, "imageData") else None

    return picture


def _sbix_strike(font, size: int) -> Callable[[str], Image.Image | None]:
    strikes = font["sbix"].strikes
    glyphs = strikes[_best(list(strikes), size)].glyphs

    def picture(name: str, depth: int = 0) -> Image.Image | None:
        glyph = glyphs.get(name)
        if glyph is None or not glyph.graphicType or depth > 4:
            return None
        if glyph.graphicType in ("png ", "jpg "):
            return _open(glyph.imageData)
        if glyph.graphicType == "dupe":
            return picture(glyph.referenceGlyphName, depth + 1)
        if glyph.graphicType == "flip":  # Apple's: the mirror image of another glyph
            other = picture(glyph.referenceGlyphName, depth + 1)
            return None if other is None else ImageOps.mirror(other)
        return None

    return picture
