"""The tokenizer, the table and what becomes of words that are not in it."""

import numpy as np
import pytest

from mlxflow.data.captions_split import further_prompts, load_captions
from mlxflow.data.words import WordTable
from mlxflow.errors import MlxflowError
from mlxflow.paths import weights_dir

PATH = weights_dir() / "emoji/words.safetensors"


@pytest.fixture(scope="module")
def table():
    return WordTable.load(PATH)


def words(table, prompt, length=24):
    return [table.words[row] for row in table.tokens(prompt, length)]


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("Red HEART", "red heart"),
        ("ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("face-with_tears, of: joy.", "face with tears of joy"),
        ("cake!", "cake"),
        ("!", "!"),
        ("#1 fan", "# 1 fan"),
        ("rock & roll", "rock & roll"),
        ("Don’t", "don't"),
        ("the cat’s hat", "the cat hat"),
        ("i <3 pizza :)", "i heart pizza smile"),
    ],
)
def test_tokens_of_plain_prompts(table, prompt, expected):
    assert words(table, prompt) == expected.split()


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("❤️", "red heart"),
        ("❤", "red heart"),
        ("a😀b", "a grinning face b"),
        ("👩‍🚀 on 🌙", "woman astronaut on crescent moon"),
        ("👍🏿", "thumbs up dark skin tone"),
        ("7", "7"),
        ("©", "copyright"),
    ],
)
def test_emoji_become_their_names_longest_first(table, prompt, expected):
    assert words(table, prompt) == expected.split()


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("squirel", "squirrel"),
        ("avacado", "avocado"),
        ("yawnnn", "yawn"),
        ("YAWNNNNNNNNN", "yawn"),
        ("catt", "cat"),
        ("happpy", "happy"),
        ("birthdaycake", "birthday cake"),
        ("elefant", "elephant"),
        ("butterlfy", "butterfly"),
        ("unicorm", "unicorn"),
        ("resturant", "restaurant"),
        ("dont", "don't"),
        ("jalapeño", "jalapeno"),
        ("cooool", "cool"),
        ("sleepingcat", "sleeping cat"),
        ("rasberry", "raspberry"),
    ],
)
def test_misspelt_words_land_on_the_right_ones(table, wrong, right):
    assert words(table, wrong) == right.split()


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", ".,;", "中文", "\u200d\ufe0f"])
def test_nothing_left_gives_an_empty_mask_and_zeros(table, prompt):
    vectors, mask = table.encode(prompt)
    assert not mask.any() and not vectors.any()


def test_hopeless_words_are_left_out_and_the_rest_stays(table):
    assert words(table, "red xqzvwkj heart") == ["red", "heart"]
    assert words(table, "qzxvj" * 150 + " cat") == ["cat"]


def test_an_endless_prompt_is_cut_before_the_work(table):
    assert words(table, "qzxvj " * 166 + "cat dog" + " bird" * 10**6) == ["cat"]


def english(texts):
    return [word for text in texts for word in text.lower().split() if word.isascii() and word.isalpha()]


def test_the_table_has_every_word_of_the_captions_and_nearly_every_one_of_the_further_prompts(table):
    """The further prompts came after the table. What of their words it lacks is read as the nearest word that it has
    ("huddles" as "huddle"), as a user's would be."""
    further = further_prompts()
    for code, caption in load_captions().items():
        known = [text for text in caption.prompts_train if text not in further.get(code, ())]
        assert set(english((*known, caption.prompt_heldout, caption.visual))) <= set(table.rows)
    used = english(text for texts in further.values() for text in texts)
    assert sum(word not in table.rows for word in used) < 0.03 * len(used)


def test_encode_pads_cuts_and_agrees_with_the_batch(table):
    prompts = ["cat", "one two three four", "dog " * 40, ""]
    vectors, mask = table.encode_batch(prompts, length=6)
    assert vectors.shape == (4, 6, table.dim) and vectors.dtype == np.float32
    assert mask.dtype == bool and mask.sum(axis=1).tolist() == [1, 4, 6, 0]
    assert not vectors[~mask].any()
    for prompt, v, m in zip(prompts, vectors, mask):
        alone = table.encode(prompt, length=6)
        assert np.array_equal(alone[0], v) and np.array_equal(alone[1], m)
    assert np.array_equal(table.vectors(table.token_batch(prompts, 6)), vectors)


def test_a_compound_does_not_run_over_the_length(table):
    assert table.tokens("birthdaycake", length=1) == [table.rows["birthday"]]


def test_vectors_have_unit_scale_and_know_meanings(table):
    everything = table.vectors(np.arange(len(table.words)))
    assert abs(np.sqrt(np.mean(np.square(everything))) - 1) < 0.05

    def close(a, b):
        x, y = table.vectors([table.rows[a], table.rows[b]])
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    for word, near, far in [
        ("kitten", "cat", "car"),
        ("automobile", "car", "cat"),
        ("crimson", "red", "green"),
    ]:
        assert close(word, near) > close(word, far) + 0.1


def test_the_table_is_a_set_of_words_and_its_hash_follows_its_content(table):
    assert len(table.words) == len(table.rows)
    assert WordTable.load(PATH).sha256 == table.sha256
    changed = WordTable(table.words, -table._vectors, table._scale)
    assert changed.sha256 != table.sha256


def test_a_missing_or_broken_table_is_one_sentence(tmp_path):
    with pytest.raises(MlxflowError, match="missing"):
        WordTable.load(tmp_path / "words.safetensors")
    whole = PATH.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"not a table at all",
        "cut": whole[: len(whole) // 2],
        "header": (2**40).to_bytes(8, "little") + b"{}",
    }.items():
        broken = tmp_path / name
        broken.write_bytes(content)
        with pytest.raises(MlxflowError, match="not a word table"):
            WordTable.load(broken)
