"""Which emoji are kept from training: fixed by a hash of the code points, never by order or by the font.

`holdout` asks whether the model can combine: skin tone x profession, activity or sport, where the tone was
seen on other people and the person in other tones, but never the two together. `val` measures the loss while
training. It is drawn among skin-tone variants too, because the model is asked for *every* base emoji: one
kept from training would be lost to the user, and the loss on a thing never seen would measure nothing.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from mlxflow.data.cldr import load_emoji

HOLDOUT_SUBGROUPS = ("person-role", "person-activity", "person-sport")
# Of the single-tone variants in these groups, so that about 5 % of the whole set of 3,925 is held out ...
HOLDOUT_SHARE = 0.225
# ... and of the other variants, so that about 2 % of the whole set is validation.
VAL_SHARE = 0.044
MAX_HELD_OUT = 2  # of the tones of a base


def assign_splits(codepoints: Iterable[str]) -> dict[str, str]:
    """Each emoji's split, "train", "val" or "holdout": {"1F600": "train", ...}, in the order given.

    An emoji's split does not change with the order of the others, and with the presence of others only in so
    far as these are tones of the same base. Each base stays in train, and at most two in five of its tones
    are held out. An emoji that the Unicode data does not know is training data.
    """
    table = load_emoji()
    splits = {code: "train" for code in codepoints}
    variants = defaultdict(list)
    for code in splits:
        if code in table and table[code].tones and table[code].base in splits:
            variants[table[code].base].append(code)
    for codes in variants.values():
        # The lowest hashes first: what the limit turns away does not depend on the order of the input.
        codes.sort(key=lambda code: _share(code, "holdout"))
        room = min(MAX_HELD_OUT, len(codes) * 2 // 5)
        for code in codes[:room]:
            emoji = table[code]
            combines = emoji.subgroup in HOLDOUT_SUBGROUPS and len(emoji.tones) == 1
            if combines and _share(code, "holdout") < HOLDOUT_SHARE:
                splits[code] = "holdout"
        for code in codes:
            if splits[code] == "train" and _share(code, "val") < VAL_SHARE:
                splits[code] = "val"
    return splits


def _share(codepoints: str, purpose: str) -> float:
    """A number in [0, 1) that is fixed for ever, uniform over emoji."""
    digest = hashlib.sha256(f"{purpose}/{codepoints}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
