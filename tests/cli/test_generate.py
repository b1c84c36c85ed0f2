"""`mlxflow generate` as a user types it, with a tiny random model."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlxflow.cli.main import main
from mlxflow.sampling.pipeline import digest
from tests.sampling import tiny


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return tiny.weights_folder(tmp_path_factory.mktemp("generate") / "tiny")


@pytest.fixture
def generate(weights, tmp_path, monkeypatch, capsys):
    """generate("cat", "--seed", 7, ...) in an empty folder -> (exit code, lines of stdout, stderr)."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments, stdin=b"", steps=2):
        options = ["--weights", weights] if "--weights" not in arguments else []
        options += ["--steps", steps] if "--steps" not in arguments else []
        monkeypatch.setattr(sys, "argv", ["mlxflow", "generate", *map(str, [*arguments, *options])])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out.splitlines(), said.err

    return run


def refused(done, *says):
    """A refusal is exit code 2, one sentence, and nothing written."""
    code, lines, said = done
    assert code == 2 and not lines and said.startswith("mlxflow: ") and said.count("\n") == 1, said
    assert all(text in said for text in says), said
    assert not list(Path().iterdir())


def test_a_prompt_becomes_a_transparent_png_that_knows_how_it_was_made(generate, weights):
    assert generate("smiling cat", "--seed", 7, "--negative", "dog") == (0, ["smiling-cat.png"], "")
    with Image.open("smiling-cat.png") as picture:
        assert picture.mode == "RGBA" and picture.size == (16, 16)
        made = json.loads(picture.text["mlxflow"])
    assert made.pop("version")
    assert made == {"prompt": "smiling cat", "seed": 7, "steps": 2, "solver": "heun", "guidance": 3.0,
                    "negative": "dog", "weights": digest(weights / "model.safetensors")}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(generate):
    for out, seed in (("a", 7), ("b", 7), ("c", 8), ("d", 0)):
        assert generate("cat", "--seed", seed, "-o", out)[0] == 0
    a, b, c, d = (Path(f"{name}.png").read_bytes() for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_the_second_of_n_is_the_next_seed_alone(generate):
    generate("cat", "-n", 3, "--seed", 7)
    generate("cat", "--seed", 8, "-o", "alone.png")
    assert Path("cat-2.png").read_bytes() == Path("alone.png").read_bytes()


def test_a_random_seed_is_printed_and_repeats_the_picture(generate):
    code, lines, said = generate("cat", "-o", "a.png")
    assert code == 0 and lines == ["a.png"]
    seed = int(said.removeprefix("mlxflow: seed "))
    with Image.open("a.png") as picture:
        assert json.loads(picture.text["mlxflow"])["seed"] == seed
    generate("cat", "-o", "b.png", "--seed", seed)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert generate("cat", "-o", "c.png")[2] != said


def test_several_prompts_and_names_that_are_taken(generate):
    assert generate("cat", "dog", "-n", 2, "--seed", 1)[1] == ["cat-1.png", "cat-2.png", "dog-1.png", "dog-2.png"]
    before = Path("cat-1.png").read_bytes()
    assert generate("cat", "-n", 2, "--seed", 5)[1] == ["cat-3.png", "cat-4.png"]
    assert Path("cat-1.png").read_bytes() == before
    assert generate("cat", "-n", 2, "--seed", 5, "--force")[1] == ["cat-1.png", "cat-2.png"]
    assert Path("cat-1.png").read_bytes() == Path("cat-3.png").read_bytes() != before
    assert generate("cat", "--seed", 5, "-o", "new/folder/x.png")[1] == ["new/folder/x.png"]


def test_prompts_come_from_standard_input(generate):
    done = generate("-", "sun", "--seed", 1, stdin="\ufeffred cat\r\n\n  dog \n".encode())
    assert done[:2] == (0, ["red-cat.png", "dog.png", "sun.png"])
    generate("dog", "--seed", 1, "-o", "other.png")
    assert Path("dog.png").read_bytes() == Path("other.png").read_bytes()


def test_a_grid_is_one_picture_of_all_on_a_background(generate):
    assert generate("cat", "dog", "-n", 3, "--grid", "--seed", 1, "--background", "#00ff00")[1] == ["cat-grid.png"]
    with Image.open("cat-grid.png") as sheet:
        assert sheet.mode == "RGB" and sheet.getpixel((0, 0)) == (0, 255, 0) and sheet.width == 8 + 3 * 24
        made = json.loads(sheet.text["mlxflow"])
    assert (made["prompts"], made["n"], made["seed"]) == (["cat", "dog"], 3, 1)
    generate("cat", "--seed", 2, "--background", "#00ff00")
    with Image.open("cat.png") as single, Image.open("cat-grid.png") as sheet:
        assert single.tobytes() == sheet.crop((32, 8, 48, 24)).tobytes()


def test_a_long_prompt_is_cut_with_a_note(generate):
    code, lines, said = generate("a red cat on blue water eats green apples", "--seed", 1, "-o", "x.png")
    assert (code, lines) == (0, ["x.png"]) and said.count("\n") == 1 and "first 6 words" in said


@pytest.mark.parametrize("arguments, says", [
    (["cat", "--solver", "foo"], "euler, midpoint, heun"), (["cat", "--steps", -1], "steps"),
    (["cat", "--steps", 0], "steps"), (["cat", "-n", 0], "between 1 and 256"), (["cat", "-n", 257], "between 1 and 256"),
    (["cat", "--guidance", "nan"], "guidance"), (["cat", "--guidance", -2], "guidance"),
    (["cat", "--guidance", "inf"], "guidance"), (["cat", "--seed", -1], "seed"), ([""], "empty"),
    (["cat", "  "], "empty"), (["word " * 10_000], "50,000 characters"), (["\u7b11\u8138"], "no English word"),
    (["cat", "--background", "whit"], "no colour"), (["cat", "-o", "x.jpg"], ".png"),
    (["cat", "-o", "/dev/null/x.png"], "/dev/null"), (["cat", "--weights", "nowhere"], "no weights at nowhere"),
    (["cat", "--negative", "dog", "--guidance", 1], "negative prompt"), (["-"], "no prompt on standard input"),
])
def test_bad_input_gets_one_sentence(generate, arguments, says):
    refused(generate(*arguments), says)


def test_standard_input_that_is_no_list_of_prompts_is_refused(generate):
    refused(generate("-", stdin=b"\xff\xfe\x00"), "UTF-8")
    refused(generate("-", stdin=b"cat\n" * 300_000), "million bytes")


def test_damaged_weights_are_refused(generate, weights, tmp_path):
    whole = (weights / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    refused(generate("cat", "--weights", tmp_path / "cut.safetensors"), "cut.safetensors")


def test_nothing_but_paths_on_standard_output_and_no_bar_without_a_terminal(mlxflow_command, weights, tmp_path):
    done = mlxflow_command("generate", "cat", "dog", "--seed", "3", "--weights", str(weights), "--steps", "2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cat.png\ndog.png\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_sees_a_bar(weights, tmp_path):
    import os
    import pty
    import subprocess

    parent, child = pty.openpty()
    done = subprocess.Popen([sys.executable, "-m", "mlxflow", "generate", "cat", "--seed", "3", "--steps", "2",
                             "--weights", str(weights)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=child,
                            env=os.environ | {"TERM": "xterm", "COLUMNS": "80"})
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 4096):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    assert done.communicate()[0] == b"cat.png\n" and done.returncode == 0
    assert b"Drawing" in shown
    os.close(parent)
