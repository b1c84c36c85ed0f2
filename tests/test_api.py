"""mlxflow as a library: what `import mlxflow` gives, with a tiny random model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlxflow
from tests.sampling import tiny

EXAMPLE = Path(mlxflow.__file__).resolve().parent.parent / "examples" / "python_api.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.weights_folder(tmp_path_factory.mktemp("api") / "tiny")


@pytest.fixture(scope="module")
def model(folder) -> mlxflow.Model:
    return mlxflow.load(folder)


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_importing_is_light_and_what_is_there_is_listed(python):
    done = python("import sys, mlxflow; print('mlx.core' in sys.modules, 'PIL' in sys.modules, 'numpy' in sys.modules)\n"
                  "print(set(mlxflow.__all__) <= set(dir(mlxflow)), callable(mlxflow.load))\n"
                  "try: mlxflow.nothing\nexcept AttributeError as error: print(error)")
    assert done.stdout.splitlines() == ["False False False", "True True", "module 'mlxflow' has no attribute 'nothing'"]
    assert (Path(mlxflow.__file__).parent / "py.typed").is_file()


def test_one_prompt_is_one_picture_and_the_command_line_draws_the_same(model, folder, mlxflow_command, tmp_path):
    picture = model.generate("smiling cat", seed=7, steps=2)
    assert isinstance(picture, Image.Image) and (picture.mode, picture.size) == ("RGBA", (16, 16))
    file = model.save(picture, tmp_path / "own.png")
    done = mlxflow_command("generate", "smiling cat", "--seed", "7", "--steps", "2", "--weights", str(folder), "-o", "cli.png")
    assert done.returncode == 0 and (tmp_path / "cli.png").read_bytes() == file.read_bytes()


def test_several_are_a_list_in_order(model):
    pictures = model.generate(["cat", "dog"], n=2, seed=3, steps=2)
    made = [(p.info["made_by"]["prompt"], p.info["made_by"]["seed"]) for p in pictures]
    assert made == [("cat", 3), ("cat", 4), ("dog", 3), ("dog", 4)]
    assert same(pictures[3], model.generate("dog", seed=4, steps=2))
    assert same(model.generate("cat", seed=[9, 4], steps=2)[1], pictures[1])
    assert len(model.generate("cat", n=1, seed=1, steps=2)) == 1
    batch = model.generate("cat", n=3, seed=3, steps=2, batch=3)
    assert len(batch) == 3 and np.abs(np.asarray(batch[0]).astype(int) - np.asarray(pictures[0]))[..., 3].max() <= 1


def test_a_random_seed_is_told_and_repeats_the_picture(model):
    picture = model.generate("cat", steps=2)
    assert same(model.generate("cat", seed=picture.info["made_by"]["seed"], steps=2), picture)


def test_previews_end_with_the_picture(model):
    seen = list(model.stream("cat", n=2, seed=3, steps=3))
    assert [(p.index, p.step) for p in seen] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert [p.t for p in seen][2::3] == [1, 1] and seen[0].t < seen[1].t < 1 and seen[0].nfe < seen[1].nfe
    assert same(seen[5].image, model.generate("cat", seed=4, steps=3)) and not same(seen[3].image, seen[5].image)


def test_the_best_have_the_best_scores(model):
    every = model.generate("cat", n=6, seed=1, steps=2)
    fit = model.scores(every)
    best = model.generate("cat", n=6, best=2, seed=1, steps=2)
    assert [p.info["made_by"]["seed"] for p in best] == [int(i) + 1 for i in np.argsort(-np.array(fit))[:2]]


def test_sizes_backgrounds_variations(model):
    picture = model.generate("cat", seed=1, steps=2, size=64, background="white")
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    assert len({p.tobytes() for p in model.generate("cat", seed=1, steps=2, n=3, vary=0.5)}) == 3


def test_edits(model, tmp_path):
    picture = model.generate("cat", seed=1, steps=2)
    other = model.inpaint(picture, "dog", box=(4, 4, 12, 12), seed=1, steps=2)
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    assert (np.asarray(other)[~mask] == np.asarray(picture)[~mask]).all() and not same(other, picture)
    assert same(other, model.inpaint(picture, "dog", mask=mask, seed=1, steps=2))
    picture.save(tmp_path / "p.png")
    assert same(model.redraw(picture, "dog", seed=1, steps=2), model.redraw(tmp_path / "p.png", "dog", seed=1, steps=2))
    assert model.reword(picture, "dog", steps=2).info["made_by"]["was"] == "cat"
    assert len(model.morph("cat", picture, frames=3, seed=1, steps=2)) == 3


def test_files_are_kept_and_say_what_made_them(model, tmp_path):
    picture = model.generate("cat", seed=1, steps=2)
    assert [model.save(picture, tmp_path / "x.png").name for _ in range(2)] == ["x.png", "x-2.png"]
    with Image.open(tmp_path / "x.png") as saved:
        assert json.loads(saved.text["mlxflow"])["seed"] == 1
    with Image.open(model.save(picture, tmp_path / "y.png", metadata=False)) as saved:
        assert saved.text == {}


@pytest.mark.parametrize("options, says", [
    ({"steps": 0}, "steps"), ({"stepz": 3}, "no setting stepz"), ({"n": 0}, "between 1 and 256"), ({"size": 3}, "size must be"),
    ({"seed": [1, 2], "n": 3}, "leave one"), ({"n": 2, "best": 3}, "best must be"), ({"vary": 2.0, "n": 1}, "variation")])
def test_mistakes_are_one_sentence(model, options, says):
    with pytest.raises(mlxflow.MlxflowError, match=says):
        model.generate("cat", **options)


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="needs the checkout")
def test_the_example_runs(folder, tmp_path):
    done = subprocess.run([sys.executable, str(EXAMPLE), "pictures", str(folder)], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(EXAMPLE.parent.parent)}, check=False)
    assert done.returncode == 0, done.stderr
    names = {file.name for file in (tmp_path / "pictures").iterdir()}
    assert {"cat.png", "heart.webp", "glasses.png", "moon.gif"} < names and sum(n.startswith("pizza-") for n in names) == 2
