import json

import numpy as np
import pytest
from PIL import Image

from mlxflow.data.folder import read_folder
from mlxflow.errors import MlxflowError
from mlxflow.evaluation.floor import draw_weights, folder_floor


def make_folder(root, captions, bases=None, size=8):
    """Pictures of random colours, the captions given; the same seed makes the same pictures."""
    root.mkdir()
    generator, lines = np.random.default_rng(0), []
    for i, text in enumerate(captions):
        pixels = generator.integers(0, 256, (size, size, 4), np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        lines.append(
            {"file_name": f"{i}.png", "text": text, "split": "train", "base": (bases or captions)[i]}
        )
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def test_weights_are_those_of_training(tmp_path):
    folder = make_folder(tmp_path / "f", ["a", "b", "c", "d"], bases=["1", "1", "1", "2"])
    assert np.allclose(draw_weights(read_folder(folder).records), [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_a_caption_of_its_own_leaves_nothing_to_guess_and_a_shared_one_does(tmp_path):
    own = folder_floor(make_folder(tmp_path / "own", list("abcdef")), size=8, bins=4, count=16)
    assert own.images == 6 and own.without_prompt.loss[0] > 0.05 and own.with_prompt.loss == [0] * 4
    shared = folder_floor(make_folder(tmp_path / "shared", list("aaabcd")), size=8, bins=4, count=16)
    assert 0.01 < shared.with_prompt.loss[0] < shared.without_prompt.loss[0]


def test_copies_of_one_picture_have_no_floor(tmp_path):
    folder = make_folder(tmp_path / "f", ["a", "b", "c"])
    for i in (1, 2):
        (folder / f"{i}.png").write_bytes((folder / "0.png").read_bytes())
    assert max(folder_floor(folder, size=8, count=4).without_prompt.loss) < 1e-9


def test_the_floor_follows_from_the_seed(tmp_path):
    folder = make_folder(tmp_path / "f", list("abc"))
    first, again, other = (folder_floor(folder, size=8, bins=3, count=8, seed=s) for s in (0, 0, 1))
    assert first == again and first != other


def test_bad_input_gets_a_sentence(tmp_path):
    folder = make_folder(tmp_path / "f", list("abc"))
    with pytest.raises(MlxflowError, match="no pictures in the split 'holdout'"):
        folder_floor(folder, split="holdout")
    with pytest.raises(MlxflowError, match="smaller --size"):
        folder_floor(folder, size=10_000)
