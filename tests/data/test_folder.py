"""A folder of pictures: three ways to say captions, and every way to get it wrong has its sentence."""

import json
import os

import pytest
from PIL import Image

from mlxflow.data.folder import read_folder
from mlxflow.errors import MlxflowError


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (8, 8), "red").save(path)


def metadata(folder, *rows):
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_metadata_is_read_in_its_order_with_every_field(tmp_path):
    for name in ("b.png", "sub/a.png", "c.png"):
        picture(tmp_path / name)
    metadata(
        tmp_path,
        {
            "file_name": "c.png",
            "text": " a red\u2028square ",
            "texts": ["red", "square "],
            "style": "flat",
            "split": "val",
            "base": "1F7E5",
            "label": "shape",
            "skin_tone": None,
            "flag": False,
        },
        "",
        {"file_name": "sub/a.png", "text": "rouge"},
    )
    first, second = read_folder(tmp_path).records
    assert (first.file_name, first.text, first.texts) == ("c.png", "a red\u2028square", ("red", "square"))
    assert (first.style, first.split, first.base, first.label) == ("flat", "val", "1F7E5", "shape")
    assert first.extra == {"skin_tone": None, "flag": False}
    assert first.path == tmp_path / "c.png"
    assert (second.file_name, second.split, second.texts, second.label) == ("sub/a.png", "train", (), None)
    folder = read_folder(str(tmp_path))
    assert (
        folder.split("val") == [first] and folder.split("train") == [second] and folder.split("holdout") == []
    )


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    picture(tmp_path / "a.png")
    line = json.dumps({"file_name": "a.png", "text": "a"})
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert read_folder(tmp_path).records[0].text == "a"


def test_without_metadata_captions_come_from_text_files_or_names(tmp_path):
    for name in ("smiling_cat.png", "red-heart.webp", "photo.JPG"):
        picture(tmp_path / name.replace(".JPG", ".png").replace(".webp", ".png"))
        os.rename(tmp_path / name.replace(".JPG", ".png").replace(".webp", ".png"), tmp_path / name)
    (tmp_path / "photo.txt").write_text("Zürich at night\n\n city lights \n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a picture")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    picture(tmp_path / ".hidden.png")
    picture(tmp_path / ".thumbnails/x.png")
    records = read_folder(tmp_path).records
    assert [(r.file_name, r.text, r.texts) for r in records] == [
        ("photo.JPG", "Zürich at night", ("city lights",)),
        ("red-heart.webp", "red heart", ()),
        ("smiling_cat.png", "smiling cat", ()),
    ]
    assert all(r.label is None for r in records)


def test_sub_folders_are_classes(tmp_path):
    for name in ("oak_tree/1.png", "oak_tree/2.png", "bird/1.png"):
        picture(tmp_path / name)
    (tmp_path / "oak_tree/2.txt").write_text("an old oak")
    folder = read_folder(tmp_path)
    assert [(r.file_name, r.text, r.label) for r in folder.records] == [
        ("bird/1.png", "bird", "bird"),
        ("oak_tree/1.png", "oak tree", "oak_tree"),
        ("oak_tree/2.png", "an old oak", "oak_tree"),
    ]
    assert folder.labels == ["bird", "oak_tree"]


def test_val_is_two_percent_by_name_from_fifty_pictures_on(tmp_path):
    for i in range(150):
        (tmp_path / f"{i}.png").touch()
    val = {r.file_name for r in read_folder(tmp_path).split("val")}
    assert len(val) == 3
    # The choice hangs on the names, not on the order or on captions.
    metadata(tmp_path, *({"file_name": f"{i}.png", "text": "x"} for i in reversed(range(150))))
    assert {r.file_name for r in read_folder(tmp_path).split("val")} == val
    # A split that is given anywhere is taken as it is.
    metadata(
        tmp_path,
        *(
            {"file_name": f"{i}.png", "text": "x", **({"split": "train"} if i == 0 else {})}
            for i in range(150)
        ),
    )
    assert read_folder(tmp_path).split("val") == []
    metadata(tmp_path, *({"file_name": f"{i}.png", "text": "x"} for i in range(49)))
    assert read_folder(tmp_path).split("val") == []


GOOD = {"file_name": "a.png", "text": "a"}
BAD_LINES = {
    "this line is not JSON": '{"file_name": "a.png", ',
    "not a JSON object": "[1, 2]",
    "file_name is missing": {"text": "a"},
    "b.png does not exist": {**GOOD, "file_name": "b.png"},
    "text is missing": {"file_name": "sub/c.png"},
    "text is missing: each": {"file_name": "sub/c.png", "text": 7},
    "each picture needs a caption": {"file_name": "sub/c.png", "text": "  "},
    "texts must be a list": {"file_name": "sub/c.png", "text": "c", "texts": "c"},
    "texts must be a list of captions": {"file_name": "sub/c.png", "text": "c", "texts": ["c", 3]},
    "split 'test' must be one of train, val, holdout": {
        "file_name": "sub/c.png",
        "text": "c",
        "split": "test",
    },
    "must be one of train": {"file_name": "sub/c.png", "text": "c", "split": ["val"]},
    "label must be a text": {"file_name": "sub/c.png", "text": "c", "label": 3},
    "already listed in line 1": GOOD,
    "'../x.png' must be a path inside": {**GOOD, "file_name": "../x.png"},
    "'sub/../../x.png' must be a path inside": {**GOOD, "file_name": "sub/../../x.png"},
    "'/etc/passwd' must be a path inside": {**GOOD, "file_name": "/etc/passwd"},
}


@pytest.mark.parametrize("sentence", BAD_LINES)
def test_a_bad_line_is_named_with_its_number(tmp_path, sentence):
    folder = tmp_path / "data"
    picture(folder / "a.png")
    picture(folder / "sub/c.png")
    picture(tmp_path / "x.png")
    metadata(folder, GOOD, "", BAD_LINES[sentence])
    with pytest.raises(MlxflowError) as error:
        read_folder(folder)
    assert str(error.value).startswith(f"{folder / 'metadata.jsonl'}:3: ")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_the_same_file_under_two_spellings_is_a_duplicate(tmp_path):
    picture(tmp_path / "a.png")
    metadata(tmp_path, GOOD, {**GOOD, "file_name": "./a.png"})
    with pytest.raises(MlxflowError, match="already listed"):
        read_folder(tmp_path)


def test_deeply_nested_json_is_a_bad_line(tmp_path):
    metadata(tmp_path, "[" * 100_000)
    with pytest.raises(MlxflowError, match=r"metadata\.jsonl:1: "):
        read_folder(tmp_path)


def test_what_is_no_folder_or_empty_is_said(tmp_path):
    with pytest.raises(MlxflowError, match="does not exist"):
        read_folder(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(MlxflowError, match="is a file, not a folder"):
        read_folder(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").write_text("hello")
    with pytest.raises(MlxflowError, match="holds no pictures"):
        read_folder(tmp_path / "empty")
    metadata(tmp_path / "empty", "")
    with pytest.raises(MlxflowError, match="holds no pictures"):
        read_folder(tmp_path / "empty")


def test_text_that_is_not_utf8_or_empty_is_named(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(MlxflowError, match=r"a\.txt: this file is not UTF-8"):
        read_folder(tmp_path)
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(MlxflowError, match=r"a\.txt: the caption is empty"):
        read_folder(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "Z\xfcrich"}')
    with pytest.raises(MlxflowError, match=r"metadata\.jsonl: this file is not UTF-8"):
        read_folder(tmp_path)
