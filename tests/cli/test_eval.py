"""`mlxflow eval` from the shell, with a tiny random model on a tiny folder."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.evaluation.tiny_folder import make_folder
from tests.sampling import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    make_folder(folder / "emoji")
    tiny.weights_folder(folder / "tiny")
    return folder


def run(place, *arguments):
    command = [sys.executable, "-m", "mlxflow", "eval", *map(str, arguments)]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)


def refused(done, *says):
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("mlxflow: "), done.stderr
    assert done.stderr.count("\n") == 1 and all(text in done.stderr for text in says), done.stderr


def test_a_result_is_numbers_a_page_and_sheets(place):
    done = run(place, "tiny", "--steps", 2, "--limit", 5)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["names", "prompts", "combinations", "compositions", "novel", "validation",
                                                   "validation", "eval-tiny/eval.json", "eval-tiny/index.html"]
    out = place / "eval-tiny"
    assert {path.name for path in out.iterdir()} == {
        "eval.json", "answers.jsonl", "index.html", "names.png", "prompts.png", "combinations.png", "compositions.png",
        "novel.png", "pictures"}
    numbers = json.loads((out / "eval.json").read_text(encoding="utf-8"))
    assert numbers["settings"] == {"steps": 2, "solver": "heun", "guidance": 3.0, "guide_until": 0.3, "seed": 0,
                                   "limit": 5}
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 5 + 5 + 1 + 5 + 5
    ranks = [answer["rank"] for answer in answers if answer["part"] == "names"]
    assert numbers["names"]["R@1"]["value"] == 20 * ranks.count(0)
    for name in ("names", "novel"):
        with Image.open(out / f"{name}.png") as image:
            image.load()

    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    again = run(place, "tiny", "--steps", 2, "--limit", 5, "--parts", "novel")
    assert again.stdout.splitlines() == lines, again.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before

    refused(run(place, "tiny", "--steps", 1, "--limit", 5), "other weights, data or settings", "--force")
    assert (out / "eval.json").read_bytes() == before["eval.json"]
    forced = run(place, "tiny", "--steps", 1, "--limit", 5, "--parts", "names", "--force")
    assert forced.returncode == 0 and "prompts" not in json.loads((out / "eval.json").read_text(encoding="utf-8"))


def test_a_sweep_is_kept_with_the_result(place):
    done = run(place, "tiny", "--steps", 1, "--solver", "euler", "--limit", 1, "--parts", "names", "--sweep", "-o", "s")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[1:-2]] == [
        f"{steps:2} steps, guidance {guidance}" for steps, guidance in
        ((4, 3), (8, 3), (16, 3), (32, 3), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6))]
    numbers = json.loads((place / "s" / "eval.json").read_text(encoding="utf-8"))
    assert len(numbers["sweep"]) == 10
    assert "<h2>Steps and guidance</h2>" in (place / "s" / "index.html").read_text(encoding="utf-8")


def test_the_measure_checks_itself_without_a_model(place):
    done = run(place, "--check-measure")
    assert done.returncode == 0, done.stderr
    assert "unchanged                                               100.0  100.0" in done.stdout
    assert done.stdout.startswith("9 real pictures, found among 9 ")
    assert run(place, "--check-measure", "--limit", 3).stdout.startswith("3 real pictures, found among 9 ")


def test_a_stopped_run_goes_on(place):
    command = [sys.executable, "-m", "mlxflow", "eval", "tiny", "--steps", "400", "--parts", "names", "-o", "stopped"]
    child = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pictures = place / "stopped" / "pictures"
    while not pictures.is_dir() and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "goes on from there" in said and "Traceback" not in said
    assert not (place / "stopped" / "eval.json").exists()


@pytest.mark.parametrize("arguments, says", [
    (["none"], "There are no weights at none"),
    (["tiny", "--data", "nothing"], "does not exist"),
    (["tiny", "--limit", "0"], "1 or more"),
    (["tiny", "--parts", "names,colours"], "no part 'colours'"),
    (["tiny", "--steps", "0"], "number of steps"),
    (["tiny", "--seed", "-1"], "seed"),
    (["--check-measure", "--data", "nothing"], "does not exist"),
    (["--check-measure", "--limit", "0"], "1 or more"),
    (["tiny", "--out", os.devnull], os.devnull),
])
def test_bad_input_is_one_sentence_and_exit_2(place, arguments, says):
    refused(run(place, *arguments), says)
