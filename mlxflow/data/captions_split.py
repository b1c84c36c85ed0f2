"""The captions of the embedded emoji, and which one of the four everyday prompts of each row is held out.

The order in which a row's prompts are tried is a function of its code points alone (SHA-256 of
"codepoints/index"). The first one that no training text of *any* row equals is held out. Many everyday
prompts are also the Unicode name or a keyword of some emoji ("lipstick", "soccer ball") and some stand in two
rows: those are never held out, so that the measure asks only for wording that training has not seen. The
names and keywords that are also prompts are listed in `assets/prompts_that_are_labels.txt`.

`assets/further_prompts.tsv` has more wording for training, about eighty a row, written later from names and the other
prompts alone. It has no part in the split: what of it equals a held-out prompt is left out.
"""

import hashlib
import json
import re
from collections import Counter
from functools import cache
from typing import NamedTuple

from mlxflow.paths import assets_dir


class Caption(NamedTuple):
    """Texts of one base emoji. Training may use every field but `prompt_heldout`."""

    prompts_train: tuple[str, ...]
    prompt_heldout: str
    visual: str
    colors: tuple[str, ...]


def normalize(text: str) -> str:
    """Lower case, letters and digits only, single spaces: how two texts are compared for being the same."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


@cache
def load_captions() -> dict[str, Caption]:
    """All captions by code points (e.g. "1F600"), in the file's order. Shared: do not change it.

    Raises ValueError when every prompt of a row is also another text.
    """
    with open(assets_dir() / "captions.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    labels = set((assets_dir() / "prompts_that_are_labels.txt").read_text(encoding="utf-8").splitlines())
    uses = Counter(normalize(text) for row in rows for text in (*row["prompts"], row["visual"]))

    chosen = {}
    for row in rows:
        code, prompts = row["codepoints"], row["prompts"]
        order = sorted(range(len(prompts)), key=lambda i: hashlib.sha256(f"{code}/{i}".encode()).digest())
        free = [i for i in order if uses[normalize(prompts[i])] == 1 and normalize(prompts[i]) not in labels]
        if not free:
            raise ValueError(f"no prompt of {code} can be held out: each of them is also another text")
        chosen[code] = free[0]
    held_out = {normalize(row["prompts"][chosen[row["codepoints"]]]) for row in rows}
    further = further_prompts()
    captions = {}
    for row in rows:
        code, prompts = row["codepoints"], row["prompts"]
        train = dict.fromkeys(prompt for i, prompt in enumerate(prompts) if i != chosen[code])
        train |= dict.fromkeys(prompt for prompt in further.get(code, ()) if normalize(prompt) not in held_out)
        captions[code] = Caption(tuple(train), prompts[chosen[code]], row["visual"], tuple(row["colors"]))
    return captions


def further_prompts() -> dict[str, list[str]]:
    """The further prompts by code points, from lines of "codepoints TAB prompt | prompt | ..."; some may equal a
    held-out prompt, which `load_captions` leaves out."""
    lines = (assets_dir() / "further_prompts.tsv").read_text(encoding="utf-8").splitlines()
    return {code: texts.split(" | ") for code, texts in (line.split("\t") for line in lines)}
