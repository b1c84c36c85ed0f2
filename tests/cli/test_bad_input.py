"""Bad input, command by command as a user meets it: a sentence, exit 2, and everything that was there still is.

What each part of the package does with it in detail is tested beside that part; here it is the way through the
command line that counts: no traceback, nothing half made.
"""

import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlxflow import weights
from mlxflow.cli.main import main
from mlxflow.runtime import mx

from tests.sampling import tiny
from tests.training.tiny import pictures


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(here, monkeypatch, capsys):
    """refused(says, *arguments): the command ends with 2 and one sentence, and changes nothing."""

    def check(says: str, *arguments: str) -> None:
        before = snapshot(here)
        monkeypatch.setattr(sys, "argv", ["mlxflow", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == 2 and out == "", err
        assert err.startswith("mlxflow: ") and err.count("\n") == 1 and says in err, err
        assert snapshot(here) == before

    return check


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims to be huge."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


TRAIN = ("train", "--data", "data", "--run", "run", "--steps", "1")


def test_no_data_folder(refused):
    refused("--data FOLDER", "train", "--run", "run")
    refused("data does not exist", *TRAIN)


def test_an_empty_data_folder(refused, here):
    (here / "data").mkdir()
    refused("data holds no pictures", *TRAIN)
    refused("data holds no pictures", "data", "show", "data")


def test_a_broken_picture(refused, here):
    pictures(here / "data")
    file = here / "data" / "007.png"
    file.write_bytes(file.read_bytes()[:60])
    refused("data/007.png: not a picture that can be read", *TRAIN)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb(refused, here):
    pictures(here / "data")
    (here / "data" / "003.png").write_bytes(bomb(60_000, 60_000))
    refused("data/003.png: the picture has more than 50 megapixels", *TRAIN)


def test_captions_that_are_not_utf8(refused, here):
    pictures(here / "data")
    (here / "data" / "metadata.jsonl").unlink()
    (here / "data" / "002.txt").write_bytes("café".encode("latin-1"))
    refused("data/002.txt: this file is not UTF-8 text", *TRAIN)


@pytest.mark.parametrize("line, says", [("not JSON", "this line is not JSON"), ('{"file_name": "000.png"}', "text is missing"),
                                        ('{"file_name": "gone.png", "text": "a"}', "gone.png does not exist")])
def test_a_line_of_metadata_that_is_no_record(refused, here, line, says):
    pictures(here / "data")
    file = here / "data" / "metadata.jsonl"
    lines = file.read_text().splitlines()
    lines[4] = line
    file.write_text("\n".join(lines))
    refused(f"data/metadata.jsonl:5: {says}", *TRAIN)


def test_a_font_without_colour_glyphs(refused, here):
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    glyph = pytest.importorskip("fontTools.ttLib.tables._g_l_y_f").Glyph
    builder.setupGlyphOrder([".notdef", "grin"])
    builder.setupCharacterMap({0x1F600: "grin"})
    builder.setupGlyf({name: glyph() for name in (".notdef", "grin")})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in (".notdef", "grin")})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Plain", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.font.save(here / "plain.ttf")
    refused("plain.ttf: this font has no colour glyphs", "data", "emoji", "out", "--font", "plain.ttf")
    (here / "noise.ttf").write_bytes(bytes(range(256)))
    refused("noise.ttf: this is not a font file", "data", "emoji", "out", "--font", "noise.ttf")


def test_a_run_that_exists(refused, here):
    pictures(here / "data")
    (here / "run").mkdir()
    (here / "run" / "config.json").write_text(json.dumps({"train": {}, "data": "data", "init": None}))
    refused("add --resume to go on with it or --force to replace it", *TRAIN)


def test_a_run_folder_that_cannot_be_made(refused, here):
    pictures(here / "data")
    (here / "file").write_text("")
    refused("cannot be written", "train", "--data", "data", "--run", "file/run", "--steps", "1",
            "--set", 'model={kind="text-unet",text={width=16,layers=1,heads=2,hidden=16,length=6},unet={image_size=16,'
            'widths=[8,8,16],blocks=[1,1,1],attention=[0,0,1],heads_dim=8,embedding=16,text_width=16,pixel_width=2}}',
            "--batch", "8")


def damaged(folder: Path, how: str) -> None:
    arrays, file = tiny.arrays(), folder / "model.safetensors"
    tiny.weights_folder(folder)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif how == "header":
        file.write_bytes(file.read_bytes()[:20])
    elif how == "shape":
        weights.write_arrays(file, arrays | {"unet.stem.bias": mx.zeros((3,))}, tiny.config())
    elif how == "names":
        weights.write_arrays(file, {n: a for n, a in arrays.items() if n != "unet.stem.bias"}, tiny.config())
    elif how == "nan":
        weights.write_arrays(file, arrays | {"unet.stem.bias": mx.full((8,), np.nan)}, tiny.config())


@pytest.mark.parametrize("how, says", [
    ("cut", "w/model.safetensors cannot be read as weights"), ("header", "was cut off"),
    ("shape", "unet.stem.bias has shape (3,) instead of (8,)"),
    ("names", "missing unet.stem.bias"), ("nan", "unet.stem.bias has values that are not finite")])
def test_damaged_weights(refused, here, how, says):
    damaged(here / "w", how)
    refused(says, "generate", "cat", "--weights", "w")
    refused(says, "convert", "w", "x.safetensors", "--to", "torch")


@pytest.mark.parametrize("arguments, says", [
    (("cat", "--solver", "magic"), "no solver 'magic'"), (("cat", "--steps", "-3"), "between 1 and 1000, not -3"),
    (("",), "prompt is empty"),
    (("word " * 10_000,), "50,000 characters"), (("cat", "-o", "file/cat.png"), "Nothing can be written in the folder file")])
def test_what_generate_cannot_do(refused, here, arguments, says):
    tiny.weights_folder(here / "w")
    (here / "file").write_text("")
    refused(says, "generate", *arguments, "--weights", "w")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("how", ["cut", "bomb", "text"])
def test_pictures_to_look_at(refused, here, how):
    pictures(here / "data")
    file = here / "data" / "001.png"
    file.write_bytes({"cut": file.read_bytes()[:50], "bomb": bomb(50_000, 2_000), "text": b"picture"}[how])
    refused("001.png", "data", "show", "data")


def test_nothing_is_drawn_over_a_picture_that_is_there(here, monkeypatch, capsys):
    Image.new("RGBA", (4, 4)).save(here / "cat.png")
    tiny.weights_folder(here / "w")
    before = (here / "cat.png").read_bytes()
    monkeypatch.setattr(sys, "argv", ["mlxflow", "generate", "cat", "--weights", "w", "--steps", "1"])
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    assert (here / "cat.png").read_bytes() == before and len(list(here.glob("cat*.png"))) == 2
