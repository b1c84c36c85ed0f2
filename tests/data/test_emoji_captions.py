"""Captions of emoji: what is asked of the model is never told to it, and words fit the picture."""

import re

from mlxflow.data.captions_split import load_captions, normalize
from mlxflow.data.cldr import load_emoji
from mlxflow.data.emoji_captions import TONE_WORDINGS, captions


def test_no_held_out_prompt_is_a_training_caption():
    held = {normalize(caption.prompt_heldout) for caption in load_captions().values()}
    tone = re.compile(r", [\w -]*skin( tone)?$")
    for emoji in load_emoji().values():
        for text in captions(emoji):
            assert normalize(text) not in held
            assert normalize(tone.sub("", text)) not in held


def test_captions_are_texts_without_repeats_and_start_with_the_name():
    for emoji in load_emoji().values():
        texts = captions(emoji)
        assert texts[0] == emoji.name
        assert len(set(texts)) == len(texts)
        assert all(text == text.strip() and text for text in texts)


def test_a_base_has_its_prompts_visual_description_and_colours():
    emoji, caption = load_emoji()["1F355"], load_captions()["1F355"]
    texts = captions(emoji)
    assert {*caption.prompts_train, caption.visual} <= set(texts)
    assert any(caption.colors[0] in text and "pizza" in text for text in texts)
    assert any("cheese" in text for text in texts)
    assert captions(load_emoji()["2764"]).count("red red heart") == 0


def test_every_caption_of_a_variant_says_its_tone():
    for emoji in load_emoji().values():
        for text in captions(emoji) if emoji.tones else ():
            assert "skin" in text, (emoji.name, text)
            if len(emoji.tones) == 1:
                words = (
                    *TONE_WORDINGS[emoji.tones[0]],
                    f"{emoji.tones[0]} skinned",
                    f"{emoji.tones[0]} skin tone",
                )
                assert any(word in text for word in words), (emoji.name, text)


def test_no_variant_is_called_yellow_or_given_the_hair_of_its_base():
    for emoji in load_emoji().values():
        if emoji.tones:
            base = load_emoji()[emoji.base].name
            for text in captions(emoji)[1:]:
                rest = text.replace(base, "")
                assert not re.search(r"\byellow (person|woman|man|hand|face|fist|finger)", rest), text
                if "hair" not in base and "beard" not in base and "hair" not in " ".join(emoji.keywords):
                    assert not re.search(r"\b(brown|yellow|blond|red|black) hair", rest), text


def test_two_tones_are_both_said():
    emoji = load_emoji()["1F468-1F3FE-200D-1F91D-200D-1F468-1F3FC"]
    assert any("brown skin and light tan skin" in text for text in captions(emoji))


def test_flags_are_told_apart():
    texts = captions(load_emoji()["1F1EB-1F1F7"])
    assert "flag of France" in texts and "France" in texts and "flag" not in texts
