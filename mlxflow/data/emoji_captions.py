"""The captions of one emoji: Unicode name, keywords, everyday prompts, visual description and colours.

A skin-tone variant has the captions of its base with the tone put into words. The everyday prompt that is
held out for evaluation (`captions_split`) never appears here.
"""

import hashlib
import re
from functools import cache
from itertools import cycle

from mlxflow.data.captions_split import Caption, load_captions, normalize
from mlxflow.data.cldr import Emoji, load_emoji

# The first wording of each tone is Unicode's own.
TONE_WORDINGS = {
    "light": ("light skin tone", "light skin", "fair skin", "pale skin"),
    "medium-light": ("medium-light skin tone", "medium light skin", "light tan skin", "olive skin"),
    "medium": ("medium skin tone", "medium skin", "tan skin", "light brown skin"),
    "medium-dark": ("medium-dark skin tone", "medium dark skin", "brown skin", "deep brown skin"),
    "dark": ("dark skin tone", "dark skin", "black skin", "very dark skin"),
}
KEYWORDS_PER_CAPTION = 6

_PERSON = (
    "adult|baby|body|boy|child|dancer|ear|elf|face|faces|fairy|finger|fingers|fist|foot|girl|hand|hands|human|leg|"
    "man|men|merman|mermaid|nose|people|person|persons|thumb|woman|women"
)
# "yellow hand", "yellow clenched fist", but not "yellow hard hat and ... man".
_YELLOW_PERSON = re.compile(rf"\byellow (?=(?:(?!and|with|hat|in)[\w-]+ ){{0,3}}?(?:{_PERSON})\b)")
_HAIR = re.compile(r"\b(hair|haired|beard|bearded|moustache|mustache|blond|blonde|ginger|redhead|yellow)\b")


def captions(emoji: Emoji) -> list[str]:
    """All training captions of an emoji, the Unicode name first, no two equal, none of them held out."""
    found = [emoji.name, *_keyword_lines(emoji)]
    caption = load_captions().get(emoji.base)
    if caption is not None:
        if emoji.tones:
            found += _toned(emoji, caption)
        else:
            found += [*caption.prompts_train, caption.visual]
            found.append(f"{emoji.name}, {' and '.join(caption.colors[:2])}")
            if caption.colors[0] not in emoji.name.split():  # no "red red heart"
                found.append(f"{caption.colors[0]} {emoji.name}")
    if emoji.flag and ": " in emoji.name:
        place = emoji.name.split(": ")[1]
        found += [f"flag of {place}", f"{place} flag", place]
    # "green battery" is made of a colour and a name here, and is another row's held-out prompt.
    return [text for text in dict.fromkeys(found) if normalize(text) not in _held_out()]


@cache
def _held_out() -> frozenset[str]:
    return frozenset(normalize(caption.prompt_heldout) for caption in load_captions().values())


def _keyword_lines(emoji: Emoji) -> list[str]:
    """The keywords, a few a line, in an order that is mixed but fixed."""
    words = [word for word in emoji.keywords if "skin tone" not in word]
    if emoji.flag and words == ["flag"]:
        return []  # true of 250 others
    words.sort(key=lambda word: hashlib.sha256(f"{emoji.base}/{word}".encode()).digest())
    lines = [
        ", ".join(words[i : i + KEYWORDS_PER_CAPTION]) for i in range(0, len(words), KEYWORDS_PER_CAPTION)
    ]
    if emoji.tones:
        lines = [f"{line}, {tone}" for line, tone in zip(lines, cycle(_wordings(emoji)))]
    return lines


def _toned(emoji: Emoji, caption: Caption) -> list[str]:
    wordings = _wordings(emoji)
    base = load_emoji()[emoji.base].name
    found = [f"{base}, {tone}" for tone in wordings[1:]]
    if len(emoji.tones) == 1:
        found.append(f"{emoji.tones[0]} skinned {base}")
    # Tones change the colour of the hair as well: a caption that names it would be false.
    prompts = [prompt for prompt in caption.prompts_train if not _HAIR.search(prompt)]
    found += [f"{prompt}, {tone}" for prompt, tone in zip(prompts, cycle(wordings))]
    visual, changed = _YELLOW_PERSON.subn("", caption.visual)
    if changed and not _HAIR.search(visual):
        found.append(f"{visual}, {wordings[0]}")
    return found


def _wordings(emoji: Emoji) -> list[str]:
    """How the tones of a variant are said: four ways for one tone and for two ("light and dark skin")."""
    if len(emoji.tones) == 1:
        return list(TONE_WORDINGS[emoji.tones[0]])
    return [" and ".join(pair) for pair in zip(*(TONE_WORDINGS[tone] for tone in emoji.tones))]
