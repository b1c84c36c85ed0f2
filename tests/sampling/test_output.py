import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from mlxflow import __version__
from mlxflow.errors import MlxflowError
from mlxflow.sampling import output
from mlxflow.sampling.output import GAP, Name, columns_for, grid, names, on_background, png_bytes, slug, wrap, write


def squares(count, size=16):
    """Opaque squares, each of its own colour."""
    images = np.zeros((count, size, size, 4), np.uint8)
    images[..., 3] = 255
    images[..., 0] = np.arange(count)[:, None, None]
    return images


@given(st.integers(1, 400))
def test_columns_fill_a_grid_that_is_neither_high_nor_very_wide(count):
    columns = columns_for(count)
    rows = -(-count // columns)
    assert rows <= columns <= 3 * rows
    assert columns * rows - count <= (columns + 1) // 3


def test_columns_of_usual_counts():
    assert {n: columns_for(n) for n in (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 20, 256)} == {
        1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 8: 4, 9: 3, 12: 4, 16: 4, 20: 5, 256: 16}


def test_each_picture_of_a_grid_has_its_own_place():
    sheet = np.asarray(grid(squares(5), 3))
    assert sheet.shape == (GAP + 2 * (16 + GAP), GAP + 3 * (16 + GAP), 4)
    for i in range(5):
        left, top = GAP + i % 3 * (16 + GAP), GAP + i // 3 * (16 + GAP)
        assert (sheet[top:top + 16, left:left + 16] == [i, 0, 0, 255]).all()
    assert (sheet[..., 3] > 0).sum() == 5 * 16 * 16


def test_captions_stand_under_their_pictures_and_stay_off_the_others():
    images = squares(2, 64)
    plain, captioned = np.asarray(grid(images, 1)), np.asarray(grid(images, 1, ["left", ""]))
    line = (captioned.shape[0] - plain.shape[0]) // 2
    assert line > 8
    below = captioned[GAP + 64:GAP + 64 + line, :, 3]
    assert below.any() and not captioned[-line:, :, 3].any()
    assert (captioned[GAP:GAP + 64, GAP:GAP + 64] == images[0]).all()


@given(st.text(max_size=80), st.integers(20, 100))
def test_wrapped_text_fits(text, width):
    font = ImageFont.load_default(11)
    lines = wrap(text, width, font)
    assert len(lines) <= 2 and all(font.getlength(line) <= width or len(line) == 1 for line in lines)
    if font.getlength(" ".join(text.split())) <= width:
        assert " ".join(lines) == " ".join(text.split())


def test_a_background_shows_where_the_picture_does_not():
    image = Image.fromarray(np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 51]]], np.uint8))
    assert on_background(image, None) is image
    made = on_background(image, "#ffffff")
    assert made.mode == "RGB" and np.asarray(made).tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    with pytest.raises(MlxflowError, match="'whit' is no colour"):
        on_background(image, "whit")


def test_a_png_says_in_utf8_what_made_it():
    made = {"prompt": "\u732b \U0001f638 chat \u00e9", "seed": 2**62, "guidance": 2.5}
    content = png_bytes(Image.new("RGBA", (4, 4)), made, made["prompt"])
    opened = Image.open(io.BytesIO(content))
    assert opened.mode == "RGBA" and b"iTXt" in content
    assert opened.text["Description"] == made["prompt"] and opened.text["Software"] == f"mlxflow {__version__}"
    assert json.loads(opened.text["mlxflow"]) == {**made, "version": __version__}
    assert content == png_bytes(Image.new("RGBA", (4, 4)), made, made["prompt"])


@pytest.mark.parametrize("prompt, name", [
    ("smiling cat", "smiling-cat"), ("It's a PIZZA!", "its-a-pizza"), ("../../etc/passwd", "etc-passwd"),
    ("\U0001f600", "grinning-face"), ("caf\u00e9", "caf\u00e9"), ("!!!", "picture"), ("--force", "force"), ("a_b", "a-b")])
def test_a_prompt_becomes_a_file_name(prompt, name):
    assert slug(prompt) == name


@given(st.text(max_size=300))
def test_every_prompt_becomes_a_name_that_a_disk_takes(prompt):
    name = slug(prompt)
    assert name and len(name.encode()) <= 200 and not set(name) & set("/\\:*?\"<>|. \0\n") and name[0] != "-"


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()

    def written(out, *stems):
        return [str(name.path) for name in names(out, stems)]

    assert written(None, "cat") == ["cat.png"]
    assert written(None, "cat", "cat", "dog") == ["cat-1.png", "cat-2.png", "dog.png"]
    assert written("here", "cat") == written("here/", "cat") == ["here/cat.png"]
    assert written("new/", "cat") == ["new/cat.png"]
    assert written("a/b.png", "cat") == written("a/b", "cat") == ["a/b.png"]
    assert written("b.png", "cat", "dog") == ["b-1.png", "b-2.png"]
    assert written(None, "cat", "cat-1", "cat") == ["cat-1.png", "cat-1-2.png", "cat-2.png"]
    with pytest.raises(MlxflowError, match="should end in .png"):
        names("b.jpg", ["cat"])


def test_a_file_that_exists_is_kept_unless_forced(tmp_path):
    name = Name(tmp_path, "cat")
    assert [write(name, bytes([i])).name for i in range(3)] == ["cat.png", "cat-2.png", "cat-3.png"]
    assert [(tmp_path / f"cat{end}.png").read_bytes() for end in ("", "-2", "-3")] == [b"\0", b"\1", b"\2"]
    assert write(name, b"new", force=True).read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 3
    assert write(Name(tmp_path, "cat", 2), b"four").name == "cat-4.png"


def test_writers_at_once_never_share_a_name(tmp_path):
    contents = [bytes([i]) * 1000 for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda content: write(Name(tmp_path, "cat"), content), contents))
    assert len(set(paths)) == 40 and [path.read_bytes() for path in paths] == contents
    assert len(list(tmp_path.iterdir())) == 40


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_no_half_file_and_the_old_one(tmp_path, force):
    (tmp_path / "cat.png").write_bytes(b"old")
    code = f"""
import resource
from pathlib import Path
from mlxflow.errors import MlxflowError
from mlxflow.sampling.output import Name, write
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write(Name(Path({str(tmp_path)!r}), "cat"), bytes(100_000), force={force})
except MlxflowError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "could not be written" in done.stdout
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("cat.png", b"old")]


def test_a_rename_that_fails_gives_the_name_back(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(MlxflowError, match="No space left on device"):
        write(Name(tmp_path, "cat"), b"new")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_or_refused_with_a_sentence(tmp_path):
    output.open_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_bytes(b"")
    for folder in ("file", "file/below"):
        with pytest.raises(MlxflowError, match="Nothing can be written in the folder"):
            output.open_folder(tmp_path / folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MlxflowError, match="Permission denied"):
        output.open_folder(tmp_path)
