"""Pictures of colour fonts: exact pixels after shaping, and a sentence for each kind of font that has none.

The fonts are made here: squares of one colour each, with a ligature for a sequence.
"""

import io
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uharfbuzz")
pytest.importorskip("fontTools")
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables import E_B_L_C_, sbixGlyph, sbixStrike
from fontTools.ttLib.tables._g_l_y_f import Glyph
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17

from mlxflow.data.emoji import build_emoji
from mlxflow.data.folder import read_folder
from mlxflow.data.fonts import rasterize
from mlxflow.errors import MlxflowError

GRIN, WAVE, WAVE_LIGHT, HEART, UNKNOWN = "1F600", "1F44B", "1F44B-1F3FB", "2764", "1F1FD-1F1FD"
FRANCE = "1F1EB-1F1F7"
CHARACTERS = {
    0x1F600: "grin",
    0x1F44B: "wave",
    0x1F3FB: "light",
    0x2764: "heart",
    0x1F1FD: "x",
    0x1F1EB: "f",
    0x1F1F7: "r",
}
LIGATURES = """
languagesystem DFLT dflt;
feature ccmp { sub wave light by wavelight; sub x x by nowhere; sub f r by nowhere; } ccmp;
"""
GLYPHS = [".notdef", *CHARACTERS.values(), "wavelight", "nowhere"]
PICTURED = ["grin", "wave", "light", "heart", "wavelight", "nowhere"]


def pixels(name, width, height):
    """A picture of its own for each glyph, with every alpha, and straight colours under low alpha."""
    drawn = np.random.default_rng(GLYPHS.index(name)).integers(0, 256, (height, width, 4), np.uint8)
    drawn[..., 3] |= 1
    return drawn


def png(name, width, height):
    file = io.BytesIO()
    Image.fromarray(pixels(name, width, height)).save(file, "PNG")
    return file.getvalue()


def plain_font():
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(GLYPHS)
    builder.setupCharacterMap(CHARACTERS)
    builder.setupGlyf({name: Glyph() for name in GLYPHS})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in GLYPHS})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    addOpenTypeFeaturesFromString(builder.font, LIGATURES)
    return builder.font


@pytest.fixture
def plain(tmp_path):
    plain_font().save(tmp_path / "plain.ttf")
    return tmp_path / "plain.ttf"


def save_sbix(path, sizes, damaged=False):
    font = plain_font()
    table = font["sbix"] = newTable("sbix")
    for size in sizes:
        strike = sbixStrike.Strike(ppem=size, resolution=72)
        for name in GLYPHS:
            glyph = sbixGlyph.Glyph(glyphName=name)
            if name in PICTURED:
                data = png(name, size, size)
                glyph = sbixGlyph.Glyph(
                    glyphName=name, graphicType="png ", imageData=data[: 40 if damaged else None]
                )
            strike.glyphs[name] = glyph
        if not damaged:
            strike.glyphs["heart"] = sbixGlyph.Glyph(
                glyphName="heart", graphicType="dupe", referenceGlyphName="grin"
            )
            strike.glyphs["light"] = sbixGlyph.Glyph(
                glyphName="light", graphicType="flip", referenceGlyphName="grin"
            )
        table.strikes[size] = strike
    font.save(path)


def save_cbdt(path, width, height):
    font = plain_font()
    locations, bitmaps = font["CBLC"], font["CBDT"] = newTable("CBLC"), newTable("CBDT")
    locations.version = bitmaps.version = 3.0
    bitmaps.strikeData, strike = [{}], E_B_L_C_.Strike()
    size = strike.bitmapSizeTable
    size.colorRef, size.bitDepth, size.flags, size.ppemX, size.ppemY = 0, 32, 1, height, height
    size.startGlyphIndex, size.endGlyphIndex = 0, len(GLYPHS) - 1
    for name in ("hori", "vert"):
        metrics = E_B_L_C_.SbitLineMetrics()
        for field in (
            "ascender",
            "descender",
            "widthMax",
            "caretSlopeNumerator",
            "caretSlopeDenominator",
            "caretOffset",
            "minOriginSB",
            "minAdvanceSB",
            "maxBeforeBL",
            "minAfterBL",
            "pad1",
            "pad2",
        ):
            setattr(metrics, field, 0)
        setattr(size, name, metrics)
    for name in PICTURED:
        glyph = bitmaps.strikeData[0][name] = cbdt_bitmap_format_17(b"", font)
        glyph.metrics = SmallGlyphMetrics()
        glyph.metrics.height, glyph.metrics.width = height, width
        glyph.metrics.BearingX, glyph.metrics.BearingY, glyph.metrics.Advance = 0, 0, width
        glyph.imageData = png(name, width, height)
    table = E_B_L_C_.eblc_index_sub_table_1(b"", font)
    table.names = sorted(PICTURED, key=GLYPHS.index)
    table.indexFormat, table.imageFormat = 1, 17
    table.firstGlyphIndex, table.lastGlyphIndex = GLYPHS.index(table.names[0]), GLYPHS.index(table.names[-1])
    strike.indexSubTables = [table]
    locations.strikes = [strike]
    font.save(path)


SEQUENCES = [GRIN, WAVE, WAVE_LIGHT, HEART, FRANCE, UNKNOWN, "1F355", "1F600-1F600"]


@pytest.fixture(params=["sbix", "cbdt"])
def font(request, tmp_path):
    path = tmp_path / f"{request.param}.ttf"
    save_sbix(path, [64]) if request.param == "sbix" else save_cbdt(path, 64, 64)
    return path


def test_pixels_are_exact_and_sequences_join(font):
    found = dict(rasterize(font, SEQUENCES, 64))
    assert list(found) == SEQUENCES
    for code, name in {GRIN: "grin", WAVE: "wave", WAVE_LIGHT: "wavelight"}.items():
        np.testing.assert_array_equal(found[code], pixels(name, 64, 64))
    heart = "grin" if font.stem == "sbix" else "heart"  # a "dupe" there
    np.testing.assert_array_equal(found[HEART], pixels(heart, 64, 64))


def test_what_the_font_does_not_draw_is_none(font):
    found = dict(rasterize(font, SEQUENCES, 64))
    assert found["1F355"] is None  # glyph 0
    assert found["1F600-1F600"] is None  # two glyphs
    assert found[FRANCE] is None and found[UNKNOWN] is None  # the sign for unknown flags


def test_the_variation_selector_is_no_hindrance(font):
    found = dict(rasterize(font, [HEART, "2764-FE0F"], 64))
    np.testing.assert_array_equal(found[HEART], found["2764-FE0F"])


def test_mirror_images(tmp_path):
    save_sbix(tmp_path / "a.ttf", [64])
    found = dict(rasterize(tmp_path / "a.ttf", ["1F3FB"], 64))
    np.testing.assert_array_equal(found["1F3FB"], pixels("grin", 64, 64)[:, ::-1])


@pytest.mark.parametrize(("size", "taken"), [(20, 20), (40, 64), (64, 64), (65, 160), (200, 160)])
def test_the_smallest_strike_that_is_large_enough_is_taken(tmp_path, size, taken):
    save_sbix(tmp_path / "a.ttf", [160, 20, 64])
    picture = next(iter(rasterize(tmp_path / "a.ttf", [GRIN], size)))[1]
    assert picture.shape == (size, size, 4)
    want = np.array(
        Image.fromarray(pixels("grin", taken, taken)).resize((size, size), Image.Resampling.LANCZOS)
    )
    want[want[..., 3] == 0] = 0
    np.testing.assert_array_equal(picture, want)


def test_empty_sides_are_cut_off_and_full_ones_kept(tmp_path, monkeypatch):
    # Noto's pictures are 136 x 128 with the artwork in the middle 128 columns.
    wide = pixels("grin", 136, 128)
    wide[:, :4] = wide[:, -4:] = 0
    monkeypatch.setitem(globals(), "pixels", lambda name, width, height: wide)
    save_cbdt(tmp_path / "a.ttf", 136, 128)
    picture = dict(rasterize(tmp_path / "a.ttf", [GRIN], 128))[GRIN]
    np.testing.assert_array_equal(picture, wide[:, 4:-4])
    wide[50:70, 0] = 255
    save_cbdt(tmp_path / "a.ttf", 136, 128)
    picture = dict(rasterize(tmp_path / "a.ttf", [GRIN], 128))[GRIN]
    assert not picture[:3].any() and picture[64, 0].any()  # padded above and below, nothing cut


def test_a_folder_from_a_font(font, tmp_path):
    built = build_emoji(tmp_path / "emoji", font=font)
    records = {record.extra["codepoints"]: record for record in read_folder(tmp_path / "emoji").records}
    if font.stem == "cbdt":
        assert set(records) == {GRIN, WAVE, WAVE_LIGHT, HEART}
    else:  # the heart is drawn as the grinning face: one picture, both names
        assert set(records) == {GRIN, WAVE, WAVE_LIGHT}
        assert records[GRIN].extra["also"] == [HEART] and "red heart" in records[GRIN].texts
    assert records[WAVE_LIGHT].base == WAVE and records[GRIN].style == font.stem
    assert built.count == len(records) and "licence" in built.source.licence


def test_fonts_without_pictures_are_refused(plain, tmp_path):
    with pytest.raises(MlxflowError, match="no colour glyphs"):
        rasterize(plain, [GRIN])
    outlines = plain_font()
    outlines["COLR"] = newTable("COLR")
    outlines["COLR"].version, outlines["COLR"].ColorLayers = 0, {}
    outlines.save(tmp_path / "colr.ttf")
    with pytest.raises(MlxflowError, match="holds outlines"):
        rasterize(tmp_path / "colr.ttf", [GRIN])


@pytest.mark.parametrize("data", [b"", b"not a font at all", b"\0\1\0\0" + b"\xff" * 60])
def test_what_is_no_font_is_refused(tmp_path, data):
    (tmp_path / "a.ttf").write_bytes(data)
    with pytest.raises(MlxflowError, match=r"a\.ttf: this is not a font file"):
        rasterize(tmp_path / "a.ttf", [GRIN])


def test_a_font_that_is_cut_short_or_damaged_is_refused(tmp_path):
    save_sbix(tmp_path / "a.ttf", [64])
    whole = (tmp_path / "a.ttf").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "b.ttf").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(MlxflowError, match=r"b\.ttf"):
            list(rasterize(tmp_path / "b.ttf", [GRIN]))
    save_sbix(tmp_path / "c.ttf", [64], damaged=True)
    with pytest.raises(MlxflowError, match="picture of 1F600 is damaged"):
        list(rasterize(tmp_path / "c.ttf", [GRIN]))


def test_a_font_without_any_emoji_makes_no_folder(tmp_path):
    font = plain_font()
    font["sbix"] = newTable("sbix")
    font["sbix"].strikes[64] = sbixStrike.Strike(ppem=64, resolution=72)
    for name in GLYPHS:
        font["sbix"].strikes[64].glyphs[name] = sbixGlyph.Glyph(glyphName=name)
    font.save(tmp_path / "a.ttf")
    with pytest.raises(MlxflowError, match="draws none of the emoji"):
        build_emoji(tmp_path / "emoji", font=tmp_path / "a.ttf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ttf"]


def test_a_missing_extra_is_one_sentence_with_the_command(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "uharfbuzz", None)
    with pytest.raises(MlxflowError, match=r"pip install 'mlxflow\[fonts\]'"):
        rasterize(plain, [GRIN])
