"""Compositions: what they show, what is kept unseen, and that everything follows from the generator."""

import numpy as np
import pytest

from mlxflow.runtime import mx

from mlxflow.data.compose import Composer, anchors, unseen
from mlxflow.data.folder import Record, read_folder
from mlxflow.data.images import load_all, premultiply
from mlxflow.data.novel import content, novel_prompts, shows_novel
from mlxflow.data.rehearsal import embedded_folder
from mlxflow.networks.collage import splat
from tests.data.discs import disc


def record(name, code=None, group="Food & Drink"):
    return Record(file_name=f"{name}.png", text=name, texts=(), style="noto", split="train", base=code, label=None,
                  extra={"codepoints": code, "group": group})


RED, GREEN = disc((210, 30, 40)), disc((40, 160, 60))


def test_one_combination_in_eight_is_unseen_and_never_drawn_for_training():
    kept = [unseen("recolour", f"{i}.png", colour) for i in range(200) for colour in ("red", "blue", "black")]
    assert 0.1 < np.mean(kept) < 0.15
    composer = Composer([record("apple"), record("pear")], np.stack([RED, GREEN]))
    assert set(composer.kinds) == {"recolour", "pair", "count", "emblem"}
    composer.kinds = ["recolour"]
    generator = np.random.default_rng(0)
    seen = {composer.draw(generator)[1] for _ in range(300)}
    held = {composer.draw(generator, kept=False)[1] for _ in range(100)}
    assert held and not {content(c) for c in seen} & {content(c) for c in held}


def test_the_same_generator_gives_the_same_composition():
    composer = Composer([record("apple"), record("pear")], np.stack([RED, GREEN]))
    one, two = (composer.draw(np.random.default_rng(5)) for _ in range(2))
    assert one[1] == two[1] and np.array_equal(one[0], two[0])


def test_nothing_to_combine_is_an_error():
    gray = disc((120, 120, 120))
    with pytest.raises(ValueError, match="nothing here can be combined"):
        Composer([record("stone", group="Flags")], gray[None]).draw(np.random.default_rng(0))


def test_where_training_may_see_nothing_of_what_can_be_made_it_is_an_error_and_no_endless_search(monkeypatch):
    monkeypatch.setattr("mlxflow.data.compose.unseen", lambda *parts: True)
    with pytest.raises(ValueError, match="nothing here can be combined"):
        Composer([record("coal")], disc((10, 10, 10))[None]).draw(np.random.default_rng(0))


def test_accessories_lie_where_the_eyes_and_the_head_are():
    code = next(code for code, face in anchors().items() if face["family"] == "round")
    face, black = disc((250, 200, 40), radius=29), disc((10, 10, 10), radius=30)
    composer = Composer([record("face", code, "Smileys & Emotion"), record("sunglasses", "1F576", "Objects")],
                        np.stack([face, black]))
    composer.kinds = ["dress"]
    composer.squares, composer.hues = {}, {}
    kept = not unseen("dress", "face.png", "1F576")
    for seed in range(5):
        picture, caption = composer.draw(np.random.default_rng(seed), kept=kept)
        x, y = (np.array(anchors()[code]["left_eye"]) + anchors()[code]["right_eye"]) / 2
        assert picture[int(y), int(x), :3].max() < 60 and picture[50, 32, 0] > 200
        assert caption.startswith("face ") and "glasses" in caption

@pytest.fixture(scope="module")
def emoji():
    records = read_folder(embedded_folder()).split("train")
    return Composer(records, load_all(records, 64))


@pytest.mark.parametrize("kind", ["recolour", "dress", "express", "pair", "hold", "count", "emblem", "change"])
def test_every_kind_draws_pictures_that_no_real_picture_is_and_no_novel_prompt_asks_for(emoji, kind, monkeypatch):
    assert kind in emoji.kinds
    monkeypatch.setattr(emoji, "kinds", [kind])
    real = {image.tobytes() for image in emoji.images}
    names = {record.text.lower() for record in emoji.records}
    generator = np.random.default_rng(1)
    for _ in range(40):
        picture, caption = emoji.draw(generator)
        assert picture.shape == (64, 64, 4) and picture.dtype == np.uint8 and picture[..., 3].any()
        assert picture.tobytes() not in real and caption not in names and not shows_novel(caption)
        assert caption == " ".join(caption.split()) and caption == caption.lower()


def test_an_expression_is_drawn_inside_the_thing(emoji, monkeypatch):
    monkeypatch.setattr(emoji, "kinds", ["express"])
    generator = np.random.default_rng(2)
    for _ in range(20):
        picture, _ = emoji.draw(generator)
        outlines = {image[..., 3].tobytes() for image in emoji.images}
        assert picture[..., 3].tobytes() in outlines  # the thing's own shape: only colours inside it changed


def test_two_of_a_thing_are_the_same_thing_twice(emoji, monkeypatch):
    monkeypatch.setattr(emoji, "kinds", ["count"])
    generator = np.random.default_rng(3)
    pairs = 0
    while pairs < 5:
        picture, caption = emoji.draw(generator)
        if caption.startswith("two "):
            pairs += 1
            assert np.abs(picture[:, :32].astype(int) - picture[:, 32:]).mean() < 3


def test_a_caption_that_says_all_that_a_novel_prompt_says_is_known():
    assert all(shows_novel(prompt) for prompt in novel_prompts())
    assert shows_novel("two blue apples with sunglasses") and shows_novel("cat face with sunglasses")
    assert not shows_novel("blue pear") and not shows_novel("apple") and not shows_novel("cat with a top hat")


def test_what_was_combined_is_told_and_a_caption_may_call_it_otherwise():
    class Nicknames(Composer):
        def said(self, index, generator):
            return f"thing {'one' if index == 0 else 'two'}"

    records, images = [record("apple"), record("pear")], np.stack([RED, GREEN])
    plain, other = Composer(records, images), Nicknames(records, images)
    for kind in dict.fromkeys(plain.kinds):
        made, again = (composer.combine(kind, np.random.default_rng(3)) for composer in (plain, other))
        assert np.array_equal(made[0], again[0]) and made[2:] == again[2:], "the picture does not follow from the words"
        assert {"apple.png", "pear.png"} & {*made[2]}
        assert "thing" in again[1] and not {"apple", "pear"} & {*again[1].split()}
        picture, *told = plain.attempt(kind, np.random.default_rng(3))
        assert np.array_equal(picture, made[0]) and told == [made[1], made[3]]


@pytest.mark.parametrize("kind", ["dress", "pair", "hold", "count", "emblem", "change"])
def test_where_pictures_were_put_says_what_the_composition_looks_like(emoji, kind):
    """The same pictures, scaled and moved by what `placed` says, have the composition's outline, but for rounding to
    pixels. (Colours may be others.)"""
    composer, generator = emoji, np.random.default_rng(2)
    index = {record.file_name: i for i, record in enumerate(composer.records)}
    errors = []
    for _ in range(12):
        picture, _, parts, _ = composer.combine(kind, generator)
        shown = [index[parts[0]]] + [index.get(part, composer.by_code.get(part, index[parts[0]])) for part in parts[1:]]
        board = np.zeros((64, 64, 4))
        for part, *across_down in composer.placed:
            columns, rows = (np.array(splat(mx.array([across_down[k]]), mx.array([across_down[k + 2]]), 64))[0] for k in (0, 1))
            layer = np.einsum("yh,hwc,xw->yxc", rows, premultiply(composer.images[shown[part]][None])[0] / 2 + 0.5, columns)
            board = layer + board * (1 - np.clip(layer[..., 3:], 0, 1))
        errors.append(np.abs(board[..., 3] - picture[..., 3] / 255).mean())
    assert np.mean(errors) < 0.04 and max(errors) < 0.08, errors


def test_what_is_only_changed_is_put_nowhere(emoji):
    for kind in ("recolour", "express"):
        emoji.combine("pair", np.random.default_rng(0))
        emoji.combine(kind, np.random.default_rng(0))
        assert emoji.placed == []
