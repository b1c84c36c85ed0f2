"""The emoji folder: what is written can be read back, nothing of the user's is lost, sources are found in
order."""

import errno
import json
import subprocess
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from mlxflow.data import emoji as emoji_module
from mlxflow.data.cldr import load_emoji
from mlxflow.data.emoji import Source, build_emoji, embedded_tiles, find_source
from mlxflow.data.folder import read_folder
from mlxflow.data.images import load_all
from mlxflow.errors import MlxflowError


@pytest.fixture(scope="module")
def tiles():
    return list(embedded_tiles())


@pytest.fixture
def few(monkeypatch, tiles):
    """The embedded set cut down to 51 tiles: faces, hands in all tones, a flag that two places share."""
    hands = next(i for i, (code, _) in enumerate(tiles) if code == "1F596")
    chosen = (
        tiles[:20]
        + tiles[hands : hands + 30]
        + [tile for tile in tiles if tile[0] in ("1F1EB-1F1F7", "1F1F2-1F1EB")]
    )
    monkeypatch.setattr(emoji_module, "embedded_tiles", lambda: iter(chosen))
    return chosen


def test_embedded_artwork_fits_its_index(tiles):
    pictures = {}
    for code, pixels in tiles:
        assert pixels.shape == (64, 64, 4) and pixels.dtype == np.uint8 and pixels[..., 3].any()
        pictures.setdefault(pixels.tobytes(), []).append(code)
    assert len(pictures) == 3925
    assert len({code for code, _ in tiles}) == len(tiles)
    assert {code for code, _ in tiles} <= set(load_emoji())
    # What Noto draws alike has the names of all, the country first.
    alike = [codes for codes in pictures.values() if len(codes) > 1]
    assert ["1F1EB-1F1F7", "1F1E8-1F1F5", "1F1F2-1F1EB"] in alike and len(alike) == 10
    # The index is not shifted: a heart is red, the flag of France is blue, white, red.
    by_code = dict(tiles)
    red, green, blue, _ = by_code["2764"][32, 32].astype(int)
    assert red > 150 and red > 2 * green and red > 2 * blue
    left, middle, right = by_code["1F1EB-1F1F7"][32, (8, 32, 56), :3].astype(int)
    assert left.argmax() == 2 and middle.min() > 200 and right.argmax() == 0


def test_what_is_built_reads_back(tmp_path, few):
    counted = []
    built = build_emoji(
        tmp_path / "a/emoji", source="embedded", progress=lambda done, total: counted.append((done, total))
    )
    folder = read_folder(tmp_path / "a/emoji")
    first = {}
    for code, pixels in few:
        first.setdefault(pixels.tobytes(), code)
    assert [record.file_name for record in folder.records] == [f"{code}.png" for code in first.values()]
    assert built.count == len(folder.records) == sum(built.splits.values())
    assert built.splits == {name: len(folder.split(name)) for name in built.splits}
    by_code = dict(few)
    expected = np.stack([by_code[code] for code in first.values()])
    expected[expected[..., 3] == 0] = 0
    np.testing.assert_array_equal(load_all(folder.records), expected)
    assert counted[-1][0] == counted[-1][1] and len(counted) >= len(few)
    assert "UNICODE LICENSE V3" in (tmp_path / "a/emoji/LICENSE.txt").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["emoji"]  # nothing is left beside


def test_records_say_what_unicode_says(tmp_path, few):
    build_emoji(tmp_path / "emoji", source="embedded")
    records = {record.extra["codepoints"]: record for record in read_folder(tmp_path / "emoji").records}
    grin = records["1F600"]
    assert grin.text == "grinning face" and grin.style == "noto" and grin.base == "1F600"
    assert grin.extra["group"] == "Smileys & Emotion" and "happy" in grin.extra["keywords"]
    assert grin.extra["skin_tone"] is None and grin.extra["flag"] is False
    france = records["1F1EB-1F1F7"]
    assert france.extra["also"] == ["1F1F2-1F1EB"] and "flag of St. Martin" in france.texts
    toned = [record for record in records.values() if record.extra["skin_tone"]]
    assert toned and all(f"{record.extra['skin_tone']} skin tone" in record.text for record in toned)
    assert all(
        record.extra["codepoints"].startswith(record.base) and record.base in records for record in toned
    )


def test_two_builds_are_the_same_bytes(tmp_path, few):
    for name in "ab":
        build_emoji(tmp_path / name, source="embedded")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_another_size(tmp_path, few):
    build_emoji(tmp_path / "emoji", source="embedded", size=32)
    with Image.open(tmp_path / "emoji/1F600.png") as image:
        assert image.size == (32, 32) and image.mode == "RGBA"
    with pytest.raises(MlxflowError, match="size of 0"):
        build_emoji(tmp_path / "other", size=0)


def test_a_folder_with_something_in_it_is_kept(tmp_path, few):
    out = tmp_path / "emoji"
    build_emoji(out, source="embedded")
    (out / "1F600.png").write_bytes(b"mine")
    with pytest.raises(MlxflowError, match="--force"):
        build_emoji(out, source="embedded")
    assert (out / "1F600.png").read_bytes() == b"mine"
    build_emoji(out, source="embedded", force=True)  # an emoji folder may be replaced
    assert (out / "1F600.png").read_bytes() != b"mine"
    (out / "holiday.png").touch()
    with pytest.raises(MlxflowError, match="other things"):
        build_emoji(out, source="embedded", force=True)
    assert (out / "holiday.png").exists()


def test_force_replaces_no_foreign_folder(tmp_path, few):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.txt").write_text("years")
    with pytest.raises(MlxflowError, match="other things"):
        build_emoji(tmp_path / "work", force=True)
    (tmp_path / "file").write_text("text")
    with pytest.raises(MlxflowError, match="not a folder"):
        build_emoji(tmp_path / "file", force=True)
    assert (tmp_path / "work/thesis.txt").read_text() == "years" and (tmp_path / "file").read_text() == "text"


def test_an_empty_folder_is_filled(tmp_path, few):
    (tmp_path / "emoji").mkdir()
    assert build_emoji(tmp_path / "emoji", source="embedded").count > 40


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_build_leaves_the_old_folder(tmp_path, few, monkeypatch, error):
    out = tmp_path / "emoji"
    build_emoji(out, source="embedded")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def broken():
        yield from islice(iter(few), 10)
        raise error

    monkeypatch.setattr(emoji_module, "embedded_tiles", broken)
    with pytest.raises(MlxflowError if isinstance(error, OSError) else KeyboardInterrupt):
        build_emoji(out, source="embedded", force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["emoji"]


def test_a_place_that_cannot_be_written_is_said(tmp_path, few):
    (tmp_path / "file").touch()
    with pytest.raises(MlxflowError, match="cannot be written"):
        build_emoji(tmp_path / "file/emoji", source="embedded")


def test_sources_are_found_in_order(tmp_path, monkeypatch):
    noto, apple = tmp_path / "NotoColorEmoji.ttf", tmp_path / "Apple Color Emoji.ttc"
    noto.touch(), apple.touch()
    monkeypatch.setattr(emoji_module, "NOTO_FONTS", (noto,))
    monkeypatch.setattr(emoji_module, "APPLE_FONT", apple)
    monkeypatch.setattr(emoji_module, "_if_readable", lambda source: source)
    monkeypatch.setattr(emoji_module.sys, "platform", "darwin")
    assert find_source().kind == "apple"
    assert find_source(source="noto") == Source("noto", "noto", noto)
    assert find_source(source="embedded") == Source("embedded", "noto", None)
    assert find_source(font=noto) == Source("font", "noto", noto)
    monkeypatch.setattr(emoji_module.sys, "platform", "linux")
    assert find_source().kind == "noto"
    with pytest.raises(MlxflowError, match="only on a Mac"):
        find_source(source="apple")

    def no_fontconfig(*args, **kwargs):
        raise FileNotFoundError

    noto.unlink()
    monkeypatch.setattr(subprocess, "run", no_fontconfig)
    assert find_source().kind == "embedded"
    with pytest.raises(MlxflowError, match="not installed"):
        find_source(source="noto")


def test_a_font_that_fontconfig_offers_instead_of_noto_is_not_taken(tmp_path, monkeypatch):
    other = tmp_path / "DejaVuSans.ttf"
    other.touch()
    monkeypatch.setattr(emoji_module, "NOTO_FONTS", ())
    monkeypatch.setattr(emoji_module.sys, "platform", "linux")
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout=f"DejaVu Sans\n{other}")
    )
    assert find_source().kind == "embedded"


def test_an_installed_font_that_cannot_be_read_is_passed_over_with_a_note(tmp_path, monkeypatch):
    font = tmp_path / "NotoColorEmoji.ttf"
    font.write_bytes(b"not a font")
    monkeypatch.setattr(emoji_module, "NOTO_FONTS", (font,))
    monkeypatch.setattr(emoji_module.sys, "platform", "linux")
    source = find_source()
    assert source.kind == "embedded" and "passed over" in source.note
    with pytest.raises(MlxflowError, match="not a font"):  # but asked for, it must be read
        build_emoji(tmp_path / "emoji", source="noto")
    assert not (tmp_path / "emoji").exists()


def test_bad_choices_are_refused(tmp_path):
    with pytest.raises(MlxflowError, match="no source 'google'"):
        find_source(source="google")
    with pytest.raises(MlxflowError, match="no such font"):
        find_source(font=tmp_path / "missing.ttf")
    with pytest.raises(MlxflowError, match="not both"):
        find_source(font=tmp_path, source="noto")


def test_metadata_is_plain_json_lines(tmp_path, few):
    build_emoji(tmp_path / "emoji", source="embedded")
    lines = (tmp_path / "emoji/metadata.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines[-1] == "" and all(isinstance(json.loads(line), dict) for line in lines[:-1])
