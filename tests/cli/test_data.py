"""`mlxflow data` from the shell: what it prints, what it writes, exit 2 with a sentence for bad input."""

import json
import subprocess
import sys

import pytest
from PIL import Image


def mlxflow(*arguments, cwd):
    command = [sys.executable, "-m", "mlxflow", "data", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    rows = []
    for i, split in enumerate(["train", "train", "val"]):
        Image.new("RGB", (32, 32), (80 * i, 100, 200)).save(tmp_path / "pictures" / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"blue {i}", "split": split}))
    (tmp_path / "pictures/metadata.jsonl").write_text("\n".join(rows))
    return tmp_path / "pictures"


def test_emoji_says_what_it_made_and_refuses_to_make_it_twice(tmp_path):
    done = mlxflow("emoji", "emoji/", "--source", "embedded", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3,925 pictures (train 3,643, val 83, holdout 199) from the embedded Noto artwork" in done.stdout
    assert "Apache-2.0" in done.stdout and "mlxflow data show emoji" in done.stdout and done.stderr == ""
    assert len(list((tmp_path / "emoji").glob("*.png"))) == 3925
    again = mlxflow("emoji", "emoji/", "--source", "embedded", cwd=tmp_path)
    assert again.returncode == 2 and "--force" in again.stderr and "Traceback" not in again.stderr
    assert again.stderr.count("\n") == 1
    shown = mlxflow(
        "show", "emoji/", "--split", "holdout", "--limit", 12, "--columns", 4, "-o", "h.png", cwd=tmp_path
    )
    assert shown.returncode == 0 and "12 of 199 pictures of holdout\nh.png\n" == shown.stdout


def test_show_writes_a_sheet_and_keeps_what_is_there(tmp_path, folder):
    done = mlxflow("show", folder, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "3 of 3 pictures\nsheet.png\n"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.mode == "RGB"
    before = (tmp_path / "sheet.png").read_bytes()
    refused = mlxflow("show", folder, "--split", "val", cwd=tmp_path)
    assert refused.returncode == 2 and "sheet.png exists" in refused.stderr
    assert (tmp_path / "sheet.png").read_bytes() == before
    assert mlxflow("show", folder, "--split", "val", "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "sheet.png").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "missing"], "missing does not exist"),
        (["show", "pictures", "--split", "holdout"], "no pictures in the split holdout"),
        (["show", "pictures", "-o", "sheet.doc"], "must end in .png"),
        (["show", "pictures", "-o", "no/folder/sheet.png"], "cannot be written"),
        (["show", "pictures", "--limit", "0"], "--limit must be 1 or more"),
        (["emoji", "out", "--font", "missing.ttf"], "no such font file"),
        (["emoji", "out", "--size", "0"], "size of 0"),
        (["emoji", "pictures", "--force"], "other things than an emoji folder"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_2(tmp_path, folder, arguments, sentence):
    done = mlxflow(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.startswith("mlxflow: ") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_a_picture_that_is_broken_is_named(tmp_path, folder):
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = mlxflow("show", folder, cwd=tmp_path)
    assert done.returncode == 2 and "1.png: not a picture that can be read" in done.stderr
    assert not (tmp_path / "sheet.png").exists()
