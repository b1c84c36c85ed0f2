"""Names, keywords and groups of every emoji, from the Unicode CLDR (version 48.2, Unicode-3.0 licence).

`assets/cldr.jsonl.gz` holds one JSON object a line: `codepoints`, `name`, `keywords`, `group`, `subgroup`
and, only where they say something, `base`, `gender`, `flag`. Code points are upper-case hexadecimal joined by
"-"; a single character stands without the variation selector FE0F. Skin tones are read from the code points
themselves. The order is that of Unicode's charts, except that a country comes before the territories that
share its flag. The licence text is `assets/LICENSE-unicode.txt`.
"""

import gzip
import json
from functools import cache
from typing import NamedTuple

from mlxflow.paths import assets_dir

SKIN_TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}


class Emoji(NamedTuple):
    """What Unicode says of one emoji."""

    codepoints: str  # "1F44B-1F3FB"
    name: str  # "waving hand: light skin tone"
    keywords: tuple[str, ...]
    group: str  # "People & Body"
    subgroup: str  # "hand-fingers-open"
    base: str  # the code points without skin tones: "1F44B"; its own code points for most
    gender: str | None  # "man", "woman" or None
    flag: bool

    @property
    def tones(self) -> tuple[str, ...]:
        """Skin tones: none, one, or two where the persons of a couple differ."""
        return skin_tones(self.codepoints)


def skin_tones(codepoints: str) -> tuple[str, ...]:
    """The skin tones that stand in a sequence, first to last, equal neighbours once."""
    tones = [SKIN_TONES[part] for part in codepoints.split("-") if part in SKIN_TONES]
    return tuple(tone for i, tone in enumerate(tones) if i == 0 or tones[i - 1] != tone)


def to_text(codepoints: str) -> str:
    """The characters: "1F600" -> "😀"."""
    return "".join(chr(int(part, 16)) for part in codepoints.split("-"))


@cache
def load_emoji() -> dict[str, Emoji]:
    """Every emoji by its code points, in the order of the file. Shared: do not change it."""
    table = {}
    with gzip.open(assets_dir() / "cldr.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            code = row["codepoints"]
            table[code] = Emoji(
                code,
                row["name"],
                tuple(row["keywords"]),
                row["group"],
                row["subgroup"],
                row.get("base", code),
                row.get("gender"),
                row.get("flag", False),
            )
    return table
