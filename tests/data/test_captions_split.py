"""Which prompt is held out, and that no training text says the same."""

import json

from mlxflow.data.captions_split import load_captions, normalize
from mlxflow.data.cldr import load_emoji
from mlxflow.paths import assets_dir


def rows():
    with open(assets_dir() / "captions.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def further():
    lines = (assets_dir() / "further_prompts.tsv").read_text(encoding="utf-8").splitlines()
    return {line.split("\t")[0]: line.split("\t")[1].split(" | ") for line in lines}


def test_every_row_gives_three_prompts_and_holds_out_the_fourth():
    captions = load_captions()
    assert list(captions) == [row["codepoints"] for row in rows()]
    for row in rows():
        caption = captions[row["codepoints"]]
        assert sorted((*caption.prompts_train[:3], caption.prompt_heldout)) == sorted(row["prompts"])
        assert caption.visual == row["visual"] and list(caption.colors) == row["colors"]


def test_further_prompts_train_all_emoji_but_for_those_that_are_held_out_somewhere():
    captions = load_captions()
    heldout = {normalize(caption.prompt_heldout) for caption in captions.values()}
    assert set(further()) == set(captions)
    for code, texts in further().items():
        assert texts and all(text == text.strip() != "" for text in texts)
        wanted = {text for text in texts if normalize(text) not in heldout}
        assert wanted <= set(captions[code].prompts_train)
        assert not {normalize(text) for text in captions[code].prompts_train} & heldout


def test_no_held_out_prompt_is_a_training_text_of_any_emoji():
    training = {normalize(emoji.name) for emoji in load_emoji().values()}
    training |= {normalize(keyword) for emoji in load_emoji().values() for keyword in emoji.keywords}
    for caption in load_captions().values():
        training |= {normalize(text) for text in (*caption.prompts_train, caption.visual)}
    heldout = [normalize(caption.prompt_heldout) for caption in load_captions().values()]
    assert not training & set(heldout)
    assert len(set(heldout)) == len(heldout)


def test_the_choice_hangs_on_code_points_not_on_position():
    places = [row["prompts"].index(load_captions()[row["codepoints"]].prompt_heldout) for row in rows()]
    shares = [places.count(i) / len(places) for i in range(4)]
    # The first prompt is often the emoji's name and then cannot be held out; the others come alike.
    assert all(share > 0.1 for share in shares)
    assert max(shares[1:]) - min(shares[1:]) < 0.06


def test_normalize_sees_through_case_punctuation_and_spaces():
    assert normalize("  Tic-Tac_toe! ") == normalize("tic tac TOE") == "tic tac toe"
    assert normalize("piñata") != normalize("pirate")
