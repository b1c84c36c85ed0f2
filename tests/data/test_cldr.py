"""The shipped Unicode data: complete, consistent, small, with its licence."""

import gzip
import struct

import pytest

from mlxflow.data.captions_split import load_captions
from mlxflow.data.cldr import SKIN_TONES, load_emoji, skin_tones, to_text
from mlxflow.paths import assets_dir


def test_every_field_makes_sense():
    table = load_emoji()
    assert len(table) > 3900
    assert len({emoji.name for emoji in table.values()}) == len(table)
    for code, emoji in table.items():
        assert emoji.codepoints == code and emoji.name and emoji.keywords and emoji.group and emoji.subgroup
        assert emoji.gender in (None, "man", "woman")
        assert emoji.flag == (emoji.group == "Flags")


def test_the_base_of_a_variant_is_known_and_has_no_tone():
    table = load_emoji()
    toned = [emoji for emoji in table.values() if emoji.tones]
    assert len(toned) > 2000
    for emoji in table.values():
        base = table[emoji.base]
        assert base.base == base.codepoints and not base.tones
        assert bool(emoji.tones) == (emoji.base != emoji.codepoints)
    for emoji in toned:
        for tone in emoji.tones:
            assert f"{tone} skin tone" in emoji.name and f"{tone} skin tone" in emoji.keywords


def test_every_caption_has_its_emoji():
    assert set(load_captions()) <= set(load_emoji())


@pytest.mark.parametrize(
    ("codepoints", "tones"),
    [
        ("1F600", ()),
        ("1F44B-1F3FB", ("light",)),
        ("1F468-1F3FE-200D-1F91D-200D-1F468-1F3FC", ("medium-dark", "medium-light")),
        ("1F9D1-1F3FF-200D-2764-FE0F-200D-1F9D1-1F3FF", ("dark",)),
    ],
)
def test_skin_tones(codepoints, tones):
    assert skin_tones(codepoints) == tones


def test_characters():
    assert to_text("1F600") == "😀" and to_text("1F44B-1F3FB") == "👋🏻"
    assert {to_text(code) for code in SKIN_TONES} == set("🏻🏼🏽🏾🏿")


def test_well_known_names():
    table = load_emoji()
    assert table["1F355"].name == "pizza" and table["2764"].name == "red heart"
    assert table["1F63A"].name == "grinning cat" and "smile" in " ".join(table["1F63A"].keywords)


def test_the_file_carries_no_time_and_its_licence_lies_beside_it():
    head = (assets_dir() / "cldr.jsonl.gz").read_bytes()[:10]
    assert struct.unpack("<I", head[4:8]) == (0,)
    with gzip.open(assets_dir() / "cldr.jsonl.gz") as file:
        file.read()  # the checksum holds
    licence = (assets_dir() / "LICENSE-unicode.txt").read_text(encoding="utf-8")
    assert licence.startswith("UNICODE LICENSE V3") and "Unicode, Inc." in licence
