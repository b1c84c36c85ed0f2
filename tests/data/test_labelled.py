from itertools import islice

import numpy as np
import pytest
from PIL import Image

from mlxflow.data.labelled import batches, indices, moved, open_labelled, to_rgba, to_unit
from mlxflow.errors import MlxflowError
from tests.data import sets


def test_digits_are_padded_and_grey_becomes_rgb_only_where_asked(tmp_path):
    folder = sets.mnist(tmp_path / "m")
    grey = open_labelled(folder, 32, 1)
    assert grey["train"].images.shape == (24, 32, 32, 1) and grey["val"].images.shape == (12, 32, 32, 1)
    assert not grey["train"].images[:, [0, 1, 30, 31]].any()
    rgb = open_labelled(folder, 32, 3)
    np.testing.assert_array_equal(rgb["train"].images, np.repeat(grey["train"].images, 3, axis=-1))
    for size, channels, says in ((16, 1, "image_size to 28"), (32, 4, "channels to 1")):
        with pytest.raises(MlxflowError, match=says):
            open_labelled(folder, size, channels)
    with pytest.raises(MlxflowError, match="image_size to 32"):
        open_labelled(sets.cifar_binary(tmp_path / "c"), 64, 3)


def test_a_folder_of_folders_has_its_classes(tmp_path):
    for name, colour in (("dog", (255, 0, 0, 255)), ("cat", (0, 0, 255, 0))):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(30):
            Image.new("RGBA", (20, 20), colour).save(tmp_path / "d" / name / f"{i}.png")
    parts = open_labelled(tmp_path / "d", 8, 3)
    assert parts["train"].names == ("cat", "dog") and len(parts["train"]) + len(parts["val"]) == 60 and len(parts["val"])
    first = parts["train"].images[parts["train"].labels.tolist().index(0)]
    assert (first == 255).all()  # nothing but transparency: white
    assert open_labelled(tmp_path / "d", 8, 1)["train"].images.shape[-1] == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "d" / "stray.png")
    with pytest.raises(MlxflowError, match="stray.png has no class"):
        open_labelled(tmp_path / "d", 8, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_survive_the_way_to_the_network_and_back(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels), dtype=np.uint8)
    if channels == 4:
        pixels[..., 3] = 255
    back = to_rgba(to_unit(pixels))
    assert (back[..., 3] == 255).all()
    np.testing.assert_array_equal(back[..., :min(3, channels)], pixels[..., :3])


def test_the_step_is_the_position_and_each_pass_has_every_picture_once():
    whole = list(islice(indices(23, 4, 5, 0), 15))
    for step in (1, 4, 5, 6, 14):
        np.testing.assert_array_equal(next(indices(23, 4, 5, step)), whole[step])
    passes = [np.concatenate(whole[i:i + 5]) for i in (0, 5, 10)]
    assert all(len(set(p.tolist())) == 20 for p in passes) and not np.array_equal(passes[0], passes[1])
    shares = [list(islice(indices(23, 4, 5, 2, rank, 2), 6)) for rank in (0, 1)]
    np.testing.assert_array_equal([np.concatenate(pair) for pair in zip(*shares)], whole[2:8])
    assert len(next(indices(3, 8, 0, 0))) == 8  # fewer pictures than a batch


def test_a_resumed_stream_is_the_same_also_with_augmentation(tmp_path):
    data = open_labelled(sets.mnist(tmp_path / "m"), 32, 1)["train"]
    whole = list(islice(batches(data, 4, 1, shift=3, flip=0.5), 9))
    rest = list(islice(batches(data, 4, 1, 5, shift=3, flip=0.5), 4))
    for a, b in zip(whole[5:], rest):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_moving_keeps_the_picture_and_stays_within_the_shift():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(200, axis=0)
    out = moved(image, np.random.default_rng(0), 2, 0.0)
    seen = {int(o[4, 4, 0]) for o in out}
    assert seen == {(4 + dy) * 8 + 4 + dx for dy in range(-2, 3) for dx in range(-2, 3)}
    flipped = moved(image, np.random.default_rng(0), 0, 1.0)
    np.testing.assert_array_equal(flipped, image[:, :, ::-1])
