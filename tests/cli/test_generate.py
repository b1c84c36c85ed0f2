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

    def run(*arguments, stdin=b"", steps=2, own=True):
        options = ["--weights", weights] if "--weights" not in arguments and own else []
        options += ["--steps", steps] if "--steps" not in arguments and steps else []
        monkeypatch.setattr(sys, "argv", ["mlxflow", "generate", *map(str, [*arguments, *options])])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out.splitlines(), said.err

    run.bare = lambda *arguments: run(*arguments, steps=None, own=False)
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
    assert made == {"prompt": "smiling cat", "seed": 7, "steps": 2, "solver": "heun", "guidance": 3.0, "guide_until": 0.3,
                    "negative": "dog", "weights": digest(weights / "model.safetensors")}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(generate):
    for out, seed in (("a", 7), ("b", 7), ("c", 8), ("d", 0)):
        assert generate("cat", "--seed", seed, "-o", out)[0] == 0
    a, b, c, d = (Path(f"{name}.png").read_bytes() for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_a_seed_of_0_is_a_seed(generate):
    for out in ("a", "b"):
        assert generate("cat", "--seed", 0, "-o", out) == (0, [f"{out}.png"], "")
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.tobytes() == b.tobytes() and json.loads(a.text["mlxflow"])["seed"] == 0


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
    assert made["pictures"] == [{"prompt": p, "seed": s} for p in ("cat", "dog") for s in (1, 2, 3)]
    assert (made["columns"], made["captions"], made["background"]) == (3, True, "#00ff00")
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
    ([], "Say what to draw"), (["cat", "--seed", "x"], "1,2,5-9"), (["cat", "--seed", "9-5"], "run backwards"),
    (["cat", "--seed", "1-999"], "more than 256"), (["cat", "--seed", "1,2", "-n", 3], "leave one of them out"),
    (["cat", "--best", 0], "--best"), (["cat", "--best", 3, "-n", 2], "between 1 and the 2 pictures"),
    (["cat", "--vary", 1.5], "above 0 and at most 1"), (["cat", "--size", 100], "64, 128, 256 or 512"),
    (["cat", "--for", "slack", "--size", 64], "sets the size"), (["cat", "--for", "slack", "-o", "x.svg"], ".png or .gif"),
    (["cat", "--for", "slack", "--grid"], "no emoji"), (["cat", "--grid", "-o", "x.svg"], "not traced"),
    (["cat", "--trajectory", "x.svg"], "should end in"), (["--like", "none.png"], "no such picture"),
    (["--prompts", "none.txt"], "cannot be read"),
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


# -- formats, sizes, sheets, animations

def pixels_of(file):
    import numpy as np

    with Image.open(file) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("suffix", [".webp", ".apng"])
def test_the_ending_says_the_format_and_lossless_ones_agree(generate, suffix):
    generate("cat", "--seed", 1)
    assert generate("cat", "--seed", 1, "-o", f"x{suffix}")[1] == [f"x{suffix}"]
    assert (pixels_of(f"x{suffix}") == pixels_of("cat.png")).all()


def test_sizes_and_chats(generate):
    generate("cat", "--seed", 1, "--size", 128, "-o", "a.png")
    generate("cat", "--seed", 1, "--for", "slack", "-o", "b.gif")
    generate("cat", "--seed", 1, "--for", "sticker")
    generate("cat", "--seed", 1, "--grid", "-n", 2, "--size", 64, "-o", "c.png")
    sizes = {f.name: Image.open(f).size for f in Path().iterdir()}
    assert sizes == {"a.png": (128, 128), "b.gif": (128, 128), "cat.webp": (512, 512), "c.png": (8 + 2 * 72, 80)}


def test_without_metadata_a_file_says_nothing(generate):
    generate("cat", "--seed", 1, "--no-metadata")
    with Image.open("cat.png") as picture:
        assert picture.text == {} and b"mlxflow" not in Path("cat.png").read_bytes()


def test_a_trajectory_begins_as_noise_and_ends_as_the_picture(generate):
    import numpy as np

    assert generate("cat", "--seed", 1, "--trajectory", "way.apng", steps=4)[1] == ["cat.png", "way.apng"]
    with Image.open("way.apng") as movie:
        frames = []
        for i in range(movie.n_frames):
            movie.seek(i)
            frames.append(np.asarray(movie.convert("RGBA")).astype(int))
    assert len(frames) == 5 and (frames[-1] == pixels_of("cat.png")).all()
    roughness = [np.abs(np.diff(frame[..., 3], axis=0)).mean() for frame in (frames[0], frames[-1])]
    assert roughness[0] > 50 and roughness[0] > roughness[1]
    assert generate("cat", "dog", "--seed", 1, "--trajectory", "way.gif")[1][-1] == "way.gif"
    with Image.open("way.gif") as movie:
        assert movie.n_frames == 3 and movie.size == (8 + 2 * 24, 32)


# -- repeating

@pytest.mark.parametrize("options", [
    (), ("--negative", "dog", "--guidance", 2.5, "--solver", "euler"), ("--size", 64, "--background", "red"),
    ("--vary", 0.4), ("--solver", "sde"), ("--guide-until", 1), ("--guide-until", 0.05)])
@pytest.mark.parametrize("out", ["x.png", "x.webp", "x.gif"])
def test_like_repeats_a_picture_bit_for_bit(generate, weights, options, out):
    assert generate("cat", "--seed", 5, "-o", out, *options)[0] == 0
    again = f"again{Path(out).suffix}"
    assert generate("--like", out, "-o", again, "--weights", weights, steps=None)[0] == 0
    assert Path(again).read_bytes() == Path(out).read_bytes()


def test_like_repeats_sheets_and_chats(generate, weights):
    generate("cat", "dog", "--seed", "3,9", "--grid", "-o", "sheet.png")
    generate("cat", "-n", 5, "--best", 2, "--seed", 1, "--grid", "-o", "best.png")
    generate("cat", "--seed", 1, "--for", "discord", "-o", "chat.webp")
    for file in ("sheet.png", "best.png", "chat.webp"):
        again = f"again-{file}"
        assert generate("--like", file, "-o", again, "--weights", weights, steps=None)[1] == [again]
        assert Path(again).read_bytes() == Path(file).read_bytes(), file


def test_explicit_flags_win(generate, weights):
    generate("cat", "--seed", 5, "--negative", "dog", "--size", 64)
    for changes, wanted in ((("dog",), ("dog", "--seed", 5, "--negative", "dog", "--size", 64)),
                            (("--seed", 6), ("cat", "--seed", 6, "--negative", "dog", "--size", 64)),
                            (("--steps", 3), ("cat", "--seed", 5, "--negative", "dog", "--size", 64, "--steps", 3)),
                            (("--size", 128), ("cat", "--seed", 5, "--negative", "dog", "--size", 128))):
        generate("--like", "cat.png", *changes, "-o", "a.png", "--force", "--weights", weights,
                 steps=None if "--steps" not in changes else 3)
        generate(*wanted, "-o", "b.png", "--force")
        assert Path("a.png").read_bytes() == Path("b.png").read_bytes(), changes


def test_like_refuses_what_it_cannot_repeat(generate, weights, tmp_path):
    Image.new("RGBA", (4, 4)).save(tmp_path / "plain.png")
    refused(generate("--like", tmp_path / "plain.png"), "does not say what made it")
    generate("cat", "--seed", 5, "-o", tmp_path / "cat.png")
    code, lines, said = generate.bare("--like", tmp_path / "cat.png")
    assert code == 2 and "weights that are not here" in said and not lines
    other = tiny.weights_folder(tmp_path / "other", seed=1)
    code, lines, said = generate("--like", tmp_path / "cat.png", "--weights", other)
    assert (code, lines) == (0, ["cat.png"]) and "other weights" in said


# -- choosing

def test_seeds_come_as_a_list(generate):
    generate("cat", "--seed", "1,3-4")
    generate("cat", "--seed", 4, "-o", "four.png")
    with Image.open("cat-2.png") as picture:
        assert json.loads(picture.text["mlxflow"])["seed"] == 3
    assert Path("cat-3.png").read_bytes() == Path("four.png").read_bytes()


def test_prompts_come_from_a_file(generate, tmp_path):
    (tmp_path / "list.txt").write_text("cat\n\n red dog \n")
    assert generate("sun", "--prompts", tmp_path / "list.txt", "--seed", 1)[1] == ["sun.png", "cat.png", "red-dog.png"]


def test_the_best_are_the_best_and_have_their_own_seeds(generate):
    import numpy as np

    from mlxflow.sampling.ranking import scores

    generate("cat", "--seed", 1, "-n", 6, "-o", "all/")
    assert generate("cat", "--seed", 1, "-n", 6, "--best", 2)[1] == ["cat-1.png", "cat-2.png"]
    fit = scores(np.stack([pixels_of(f"all/cat-{i}.png") for i in range(1, 7)]))
    for name, i in zip(("cat-1.png", "cat-2.png"), np.argsort(-fit)):
        assert Path(name).read_bytes() == Path(f"all/cat-{i + 1}.png").read_bytes()


def test_variations_are_near_and_nearer_for_less(generate):
    import numpy as np

    generate("cat", "--seed", 1)
    original = pixels_of("cat.png").astype(int)
    away = {}
    for strength in (0.05, 0.3, 1.0):
        files = generate("cat", "--seed", 1, "--vary", strength, "-n", 4)[1]
        away[strength] = np.mean([np.abs(pixels_of(file) - original).mean() for file in files])
        assert len({Path(file).read_bytes() for file in files}) == 4
    assert 0 < away[0.05] < away[0.3] < away[1.0]
