"""What is asked, and what is right."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mlxflow.data.captions_split import load_captions, normalize
from mlxflow.data.cldr import load_emoji
from mlxflow.data.emoji_captions import captions
from mlxflow.data.folder import read_folder
from mlxflow.evaluation.questions import Question, novel_prompts, ordered, questions, variants
from tests.evaluation.tiny_folder import ALIKE, PERSONS, make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return read_folder(make_folder(tmp_path_factory.mktemp("questions") / "emoji"))


def test_each_base_emoji_is_asked_by_its_name_and_by_the_prompt_held_out(folder):
    asked = questions(folder)
    table, known = load_emoji(), load_captions()
    assert {q.key for q in asked.names} == {q.key for q in asked.prompts} == {
        *PERSONS, *ALIKE, "1F34E", "1F431", "1F697", "1F415", "1F600", "1F355"}
    assert all(q.prompt == table[q.key].name for q in asked.names)
    assert all(q.prompt == known[q.key].prompt_heldout for q in asked.prompts)
    trained = {normalize(text) for record in folder.records for text in (record.text, *record.texts)}
    assert not trained & {normalize(q.prompt) for q in asked.prompts}


def test_emoji_that_are_drawn_alike_share_the_right_picture(folder):
    by_code = {q.key: q for q in questions(folder).names}
    first, second = (by_code[code] for code in ALIKE)
    assert first.prompt != second.prompt
    assert first.right == second.right and first.right[0].file_name == f"{ALIKE[0]}.png"


def test_no_skin_tone_is_in_the_gallery_and_every_picture_once(folder):
    gallery = questions(folder).gallery
    assert not any(record.extra["skin_tone"] for record in gallery)
    assert len(gallery) == len({record.file_name for record in gallery}) == 9


def test_combinations_are_the_holdout_among_the_variants_of_their_base(folder):
    (question,) = questions(folder).combinations
    assert question.right[0].split == "holdout" and question.prompt == question.right[0].text
    own = variants(folder, question.right[0])
    assert len(own) == 6 and {record.base for record in own} == {question.right[0].base}


def test_other_styles_are_left_out(folder):
    from dataclasses import replace

    others = [replace(record, style="flat") for record in folder.records]
    both = replace(folder, records=[*folder.records, *others])
    assert questions(both) == questions(folder)


def test_a_folder_of_ones_own_is_asked_for_its_captions(tmp_path):
    for i, name in enumerate(("red", "red_", "blue")):
        Image.fromarray(np.full((4, 4, 4), 60 * i, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": f"{n}.png", "text": t}) for n, t in (
        ("red", "red"), ("red_", "red"), ("blue", "blue"))))
    asked = questions(read_folder(tmp_path))
    assert {q.prompt: len(q.right) for q in asked.names} == {"red": 2, "blue": 1}
    assert asked.prompts == asked.combinations == [] and len(asked.gallery) == 3


def test_the_first_questions_are_spread_over_the_groups():
    asked = [Question(f"{group}{i}", "", group) for group, n in (("a", 600), ("b", 300), ("c", 100)) for i in range(n)]
    order = ordered(asked)
    assert sorted(order, key=lambda q: q.key) == sorted(asked, key=lambda q: q.key)
    assert ordered(reversed(asked)) == order
    for limit in (10, 100, 500):
        counts = Counter(q.group for q in order[:limit])
        assert all(abs(counts[g] - share * limit) <= 1 for g, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)))


def test_novel_prompts_are_60_different_ones_that_no_emoji_is_called():
    prompts = [normalize(prompt) for prompt in novel_prompts()]
    assert len(prompts) == len(set(prompts)) == 60 and all(prompts)
    known = {normalize(text) for emoji in load_emoji().values() for text in captions(emoji)}
    known |= {normalize(caption.prompt_heldout) for caption in load_captions().values()}
    assert not known & set(prompts)
