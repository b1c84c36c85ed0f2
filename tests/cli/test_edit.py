"""`mlxflow edit` as a user types it, with a tiny random model."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlxflow.cli.main import main
from tests.sampling import tiny


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return tiny.weights_folder(tmp_path_factory.mktemp("edit") / "tiny")


@pytest.fixture
def edit(weights, tmp_path, monkeypatch, capsys):
    """edit("redraw", "p.png", "cat", ...) in a folder with the picture p.png -> (exit code, lines of stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    picture(48, 30).save("p.png")

    def run(*arguments):
        options = ["--weights", weights, "--steps", 2]
        monkeypatch.setattr(sys, "argv", ["mlxflow", *(["edit"] if arguments[0] != "generate" else []),
                                          *map(str, [*arguments, *options])])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out.splitlines(), said.err

    return run


def picture(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] < 40, pixels[..., 3], 255)
    return Image.fromarray(pixels)


def pixels_of(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGBA")).astype(int)


def made_by(file):
    with Image.open(file) as image:
        return json.loads(image.text["mlxflow"])


def test_redraw_says_what_it_did_and_repeats_with_the_seed(edit):
    assert edit("redraw", "p.png", "red cat", "--seed", 5) == (0, ["red-cat.png"], "")
    made = made_by("red-cat.png")
    assert (made["edit"], made["prompt"], made["seed"], made["strength"]) == ("redraw", "red cat", 5, 0.6)
    edit("redraw", "p.png", "red cat", "--seed", 5, "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("red-cat.png").read_bytes()
    edit("redraw", "p.png", "red cat", "--seed", 5, "--strength", 1, "--size", 64, "-o", "b.png")
    assert pixels_of("b.png").shape == (64, 64, 4)


@pytest.mark.parametrize("how", ["box", "mask"])
def test_inpaint_changes_the_part_and_nothing_else(edit, how):
    mask = np.zeros((30, 48), np.uint8)
    mask[5:20, 10:31] = 255
    Image.fromarray(mask).save("mask.png")
    where = ("--box", "10,5,31,20") if how == "box" else ("--mask", "mask.png")
    assert edit("inpaint", "p.png", "cat", *where, "--seed", 1, "--rounds", 2)[:2] == (0, ["cat.png"])
    before, after = pixels_of("p.png"), pixels_of("cat.png")
    assert (after[mask == 0] == before[mask == 0]).all() and (after[mask > 0] != before[mask > 0]).any(-1).mean() > 0.9


def test_the_same_words_give_the_picture_back_and_others_another(edit, tmp_path):
    edit("generate", "cat", "--seed", 3, "--guidance", 1, "-o", "own.png")
    edit("reword", "own.png", "cat", "-o", "same.png")
    assert made_by("same.png")["was"] == "cat"
    assert np.abs(pixels_of("same.png") - pixels_of("own.png"))[pixels_of("own.png")[..., 3] > 60].max() <= 2
    edit("reword", "own.png", "dog", "-o", "dog.png")
    assert np.abs(pixels_of("dog.png") - pixels_of("own.png")).max() > 2


@pytest.mark.parametrize("ends", [("cat", "dog"), ("p.png", "dog"), ("p.png", "p.png")])
def test_morph_goes_there_and_back(edit, ends):
    assert edit("morph", *ends, "--frames", 4, "--seed", 1, "-o", "m.apng")[:2] == (0, ["m.apng"])
    with Image.open("m.apng") as movie:
        shown = []
        for i in range(movie.n_frames):
            movie.seek(i)
            shown.append(np.asarray(movie.convert("RGBA")).astype(int))
    if ends[0] != ends[1]:  # equal pictures in a row are one frame
        assert len(shown) == 6 and (shown[1] == shown[5]).all() and (shown[2] == shown[4]).all()


def test_weights_with_one_style_say_so(edit):
    code, lines, said = edit("restyle", "p.png", "noto")
    assert (code, lines) == (2, []) and "one style only" in said


def test_weights_with_styles_change_them(edit, tmp_path, monkeypatch):
    from mlxflow import weights as stored

    styled = tmp_path / "two-styles"
    stored.save(styled, tiny.arrays(), tiny.config() | {"styles": ["flat", "round"]}, tiny.WORDS)
    for arguments, code in ((["flat"], 0), (["cubist"], 2)):
        monkeypatch.setattr(sys, "argv", ["mlxflow", "edit", "restyle", "p.png", *arguments, "--from", "cat", "--steps", "2",
                                          "--weights", str(styled)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert (stopped.value.code or 0) == code
    made = made_by("flat.png")
    assert (made["edit"], made["style"], made["prompt"], made["was"]) == ("restyle", "flat", "cat, flat style", "cat")


@pytest.mark.parametrize("arguments, says", [
    (["redraw", "none.png", "cat"], "no such picture"), (["redraw", "p.png", ""], "empty"),
    (["redraw", "p.png", "cat", "--strength", 2], "strength"), (["inpaint", "p.png", "cat"], "either --mask"),
    (["inpaint", "p.png", "cat", "--box", "0,0,1,1", "--mask", "p.png"], "either --mask"),
    (["inpaint", "p.png", "cat", "--box", "0,0,99,9"], "not inside the picture of 48 x 30"),
    (["morph", "cat", "none.png"], "no such picture"), (["morph", "cat", "dog", "-o", "x.svg"], "should end in"),
    (["morph", "cat", "dog", "--frames", 1], "between 2 and 240"), (["reword", "p.png", "cat", "--keep", 2], "between 0 and 1"),
    (["reword", "p.png", "cat", "--solver", "sde"], "backwards"), (["redraw", "p.png", "cat", "-o", "x.jpg"], "should end in"),
])
def test_bad_input_gets_one_sentence(edit, arguments, says):
    seed = ["--seed", 1] if arguments[0] not in ("reword",) else []
    code, lines, said = edit(*arguments, *seed)
    assert code == 2 and not lines and said.startswith("mlxflow: ") and said.count("\n") == 1 and says in said, said
    assert [f.name for f in Path().iterdir()] == ["p.png"]
