"""What the model is asked to draw, and which real pictures are right answers.

names         each base emoji by its Unicode name
prompts       the same emoji by the everyday wording that is held out from training (data/captions_split.py)
combinations  the `holdout` pictures: a skin tone on a person that training has shown in other tones only
compositions  pictures put together in a way that training never shows (compositions.py)
novel         things that do not exist (data/novel.py): no picture is right

Emoji that a font draws alike share a record, whose `also` names the others: each is asked for by its own words, and
the shared picture is right. Country flags have no everyday wording and are left out. A folder without Unicode's
code points is asked for its captions, and every picture with the caption is right.

Questions are in an order of their own: spread over the groups by their size, within a group by a hash. The first N
of it are a fair sample, and a part of the first N + 1.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from mlxflow.data.captions_split import load_captions
from mlxflow.data.cldr import load_emoji
from mlxflow.data.folder import Folder, Record
from mlxflow.data.novel import novel_prompts


@dataclass(frozen=True)
class Question:
    """A prompt and the records that are right; `key` names it for ever, `group` is its kind."""

    key: str
    prompt: str
    group: str = ""
    right: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Asked:
    """All questions of a folder; `gallery` are the real pictures that names and prompts are compared with."""

    gallery: list[Record]
    names: list[Question]
    prompts: list[Question]
    combinations: list[Question]
    novel: list[Question]


def questions(folder: Folder) -> Asked:
    """The questions of a data folder; of several styles in it, those of its first picture's."""
    style = folder.records[0].style
    records = [record for record in folder.records if record.style == style]
    owner = {code: record for record in records for code in _codes(record)}
    captions, table = load_captions(), load_emoji()
    codes = [code for code in captions if code in owner]
    if codes:
        group = {code: owner[code].extra.get("group") or "" for code in codes}
        gallery = list({owner[code].file_name: owner[code] for code in codes}.values())
        names = [Question(code, table[code].name if code in table else owner[code].text, group[code], (owner[code],))
                 for code in codes]
        prompts = [Question(code, captions[code].prompt_heldout, group[code], (owner[code],)) for code in codes]
    else:
        gallery = [record for record in records if record.split == "train"]
        same = defaultdict(list)
        for record in gallery:
            same[record.text].append(record)
        names = [Question(text, text, own[0].label or "", tuple(own)) for text, own in same.items()]
        prompts = []
    combinations = [Question(r.file_name, r.text, r.extra.get("subgroup") or "", (r,))
                    for r in records if r.split == "holdout"]
    novel = [Question(prompt, prompt) for prompt in novel_prompts()]
    return Asked(gallery, ordered(names), ordered(prompts), ordered(combinations), novel)


def variants(folder: Folder, record: Record) -> list[Record]:
    """All pictures of the record's base in its style, itself among them; only itself if it has no base."""
    if record.base is None:
        return [record]
    return [other for other in folder.records if (other.base, other.style) == (record.base, record.style)]


def ordered(asked: Iterable[Question]) -> list[Question]:
    """The questions so that the first N, for any N, have each group's share of N."""
    groups = defaultdict(list)
    for question in asked:
        groups[question.group].append(question)
    placed = []
    for members in groups.values():
        members.sort(key=_hash)
        placed += [((i + 0.5) / len(members), _hash(question), question) for i, question in enumerate(members)]
    return [question for _, _, question in sorted(placed, key=lambda place: place[:2])]


def _hash(question: Question) -> bytes:
    return hashlib.sha256(f"eval/{question.key}".encode()).digest()


def _codes(record: Record) -> list[str]:
    """The code points that the picture is drawn for."""
    also = record.extra.get("also")
    return [code for code in (record.extra.get("codepoints"), *(also if isinstance(also, list) else []))
            if isinstance(code, str)]
