"""Compositions: what changes, what stays, what is kept unseen, and that everything follows from the generator."""

import numpy as np
import pytest

from mlxflow.data.compose import COLOURS, Composer, anchors, dominant_hue, recolour, unseen
from mlxflow.data.folder import Record


def disc(rgb, size=64, radius=24):
    """A disc with a dark outline on transparent ground."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    far = np.hypot(x, y)
    image = np.zeros((size, size, 4), np.uint8)
    image[far < radius] = (*rgb, 255)
    image[(far >= radius) & (far < radius + 2)] = (40, 40, 40, 255)
    return image


def record(name, code=None, group="Food & Drink"):
    return Record(file_name=f"{name}.png", text=name, texts=(), style="noto", split="train", base=code, label=None,
                  extra={"codepoints": code, "group": group})


RED, GREEN = disc((210, 30, 40)), disc((40, 160, 60))


def test_the_dominant_hue_is_found_and_a_picture_of_many_hues_has_none():
    assert min(dominant_hue(RED), 360 - dominant_hue(RED)) < 15
    assert abs(dominant_hue(GREEN) - 130) < 20
    quarters = RED.copy()
    for i, rgb in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))):
        quarters[(i // 2) * 32:(i // 2 + 1) * 32, (i % 2) * 32:(i % 2 + 1) * 32] = (*rgb, 255)
    assert dominant_hue(quarters) is None
    assert dominant_hue(disc((128, 128, 128))) is None


@pytest.mark.parametrize("colour", [c for c, (hue, _, _) in COLOURS.items() if hue is not None])
def test_a_recoloured_picture_has_the_named_hue(colour):
    painted = recolour(RED, dominant_hue(RED), colour)
    hue = dominant_hue(painted)
    target = COLOURS[colour][0]
    assert hue is not None and abs((hue - target + 180) % 360 - 180) < 25


@pytest.mark.parametrize("colour,low,high", [("black", 0, 90), ("white", 215, 255), ("gray", 110, 190)])
def test_colours_without_a_hue_have_the_named_brightness(colour, low, high):
    middle = recolour(RED, dominant_hue(RED), colour)[32, 32, :3].astype(int)
    assert low <= middle.mean() <= high and np.ptp(middle) < 40


def test_outline_and_transparency_stay():
    painted = recolour(RED, dominant_hue(RED), "blue")
    outline = (RED[..., :3] == 40).all(-1)
    assert np.abs(painted[outline].astype(int) - RED[outline]).max() <= 2
    assert np.array_equal(painted[..., 3], RED[..., 3])


def test_one_combination_in_eight_is_unseen_and_never_drawn_for_training():
    kept = [unseen("recolour", f"{i}.png", colour) for i in range(200) for colour in COLOURS]
    assert 0.1 < np.mean(kept) < 0.15
    composer = Composer([record("apple"), record("pear")], np.stack([RED, GREEN]))
    assert composer.kinds == ["recolour", "pair"]
    generator = np.random.default_rng(0)
    seen = {composer.draw(generator)[1] for _ in range(300)}
    held = {composer.draw(generator, kept=False)[1] for _ in range(100)}
    assert held and not {c for c in seen if "in " not in c} & {c for c in held if "in " not in c and "and" not in c}


def test_the_same_generator_gives_the_same_composition():
    composer = Composer([record("apple"), record("pear")], np.stack([RED, GREEN]))
    one, two = (composer.draw(np.random.default_rng(5)) for _ in range(2))
    assert one[1] == two[1] and np.array_equal(one[0], two[0])


def test_nothing_to_combine_is_an_error():
    gray = disc((120, 120, 120))
    with pytest.raises(ValueError, match="nothing here can be combined"):
        Composer([record("stone")], gray[None]).draw(np.random.default_rng(0))


def test_accessories_lie_where_the_eyes_and_the_head_are():
    code = next(code for code, face in anchors().items() if face["family"] == "round")
    face, black = disc((250, 200, 40), radius=29), disc((10, 10, 10), radius=30)
    composer = Composer([record("face", code, "Smileys & Emotion"), record("sunglasses", "1F576", "Objects")],
                        np.stack([face, black]))
    composer.kinds = ["dress"]
    kept = not unseen("dress", "face.png", "1F576")
    for seed in range(5):
        picture, caption = composer.draw(np.random.default_rng(seed), kept=kept)
        x, y = (np.array(anchors()[code]["left_eye"]) + anchors()[code]["right_eye"]) / 2
        assert picture[int(y), int(x), :3].max() < 60 and picture[50, 32, 0] > 200
        assert caption.startswith("face ") and "glasses" in caption
