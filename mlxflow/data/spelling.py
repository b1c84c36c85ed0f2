"""Unknown words to known ones: stretched letters, endings, misspellings, words run together.

Every candidate has a cost, and the cheapest wins:

    spelling  weighted edit distance + RARE ln(1 + rank)      optimal string alignment: Damerau-Levenshtein
                                                              without edits inside a transposition
    ending    ENDING + RARE ln(1 + rank of the stem)          "unicorns", "pizzaish"
    sound     SOUND + RARE ln(1 + rank)                       "elefant"
    compound  per part: PART + RARE ln(1 + rank of the part)  "birthdaycake"

Ranks are row numbers of the table, whose words stand most frequent first. The weights were set by
hand and are measured on synthetic and on hand-written mistakes by apps/emoji/text_eval.py.
"""

import itertools
import math
import re
import unicodedata

import numpy as np

RARE = 0.09
ENDING = 0.35
SOUND = 0.4
PART = 0.6
ENDINGS = ("'s", "s", "es", "ed", "d", "ing", "er", "ers", "y", "ly", "ish", "like", "less", "ness", "'")
SOUNDS = (
    ("f", "ph"),
    ("ph", "f"),
    ("oo", "u"),
    ("ee", "ea"),
    ("ea", "ee"),
    ("kw", "qu"),
    ("x", "ks"),
    ("k", "ck"),
)
WIDEST = 18
# Edit costs in quarters. A letter too many or too few that repeats its neighbour is half a mistake.
EDIT, DOUBLE, CLOSE, SWAP, MARK, FIRST = 4, 2, 3, 3, 1, 2
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
ALIKE = ("aeiouy", "mn", "cks", "sz", "td", "bpd", "vw", "gj")


def _substitution_costs() -> np.ndarray:
    """uint8 [128, 128]: 0 on the diagonal, CLOSE for near keys and letters that sound alike, else EDIT."""
    costs = np.full((128, 128), EDIT, np.uint8)
    pairs = [pair for row in KEYBOARD for pair in itertools.pairwise(row)]
    pairs += [pair for group in ALIKE for pair in itertools.combinations(group, 2)]
    for a, b in pairs:
        costs[ord(a), ord(b)] = costs[ord(b), ord(a)] = CLOSE
    np.fill_diagonal(costs, 0)
    return costs


def _letter_set(letters: np.ndarray) -> np.ndarray:
    """Which letters stand in each word: uint8 [N, W] to bits uint32 [N]."""
    bits = np.where(letters >= ord("a"), np.uint32(1) << (letters - ord("a")).astype(np.uint32), np.uint32(0))
    return np.bitwise_or.reduce(bits, axis=1)


class Spelling:
    """Look-up over `words` (most frequent first); `rows` maps each word to its row."""

    def __init__(self, words: list[str], rows: dict[str, int]):
        self.rows = rows
        sized = [
            (row, word.encode()) for row, word in enumerate(words) if word.isascii() and word[0].isalpha()
        ]
        sized = [(row, word) for row, word in sized if 2 < len(word) <= WIDEST]
        self._row = np.array([row for row, _ in sized], np.int64)
        self._size = np.array([len(word) for _, word in sized], np.int64)
        self._letters = np.array([word for _, word in sized], f"S{WIDEST}").view(np.uint8).reshape(-1, WIDEST)
        self._set = _letter_set(self._letters)
        self._costs = _substitution_costs()

    def resolve(self, word: str) -> tuple[int, ...]:
        """Rows that stand for a word outside the table: one, several for a compound, none if hopeless."""
        if word.isdigit() or not word[0].isalpha():
            return tuple(self.rows[sign] for sign in word if sign in self.rows)
        word = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
        if not word.isascii():
            return ()
        stretched = self._unstretch(word)
        if stretched is not None:
            return (stretched,)
        word = re.sub(r"(.)\1{2,}", r"\1\1", word)[:40]
        ways = (self._ending, self._sound, self._nearest, self._compound)
        candidates = [candidate for way in ways if (candidate := way(word))]
        return min(candidates)[1] if candidates else ()

    def _price(self, row: int) -> float:
        return RARE * math.log1p(row)

    def _unstretch(self, word: str) -> int | None:
        """The most frequent word among those with each run of three or more letters cut to one or two."""
        pieces = [(m[0],) if len(m[0]) < 3 else (m[1], m[1] * 2) for m in re.finditer(r"(.)\1*", word)]
        if math.prod(map(len, pieces)) > 64:
            return None
        found = [self.rows[w] for w in map("".join, itertools.product(*pieces)) if w in self.rows]
        return min(found, default=None)

    def _ending(self, word: str):
        stems = [word[: -len(end)] for end in ENDINGS if word.endswith(end) and len(word) - len(end) > 2]
        stems += [stem[:-1] for stem in stems if len(stem) > 3 and stem[-1] == stem[-2]]
        stems += [stem[:-1] + "y" for stem in stems if stem[-1] == "i"]
        rows = [self.rows[stem] for stem in stems if stem in self.rows]
        return (ENDING + self._price(min(rows)), (min(rows),)) if rows else None

    def _sound(self, word: str):
        rows = [
            self.rows[w] for old, new in SOUNDS if old in word and (w := word.replace(old, new)) in self.rows
        ]
        return (SOUND + self._price(min(rows)), (min(rows),)) if rows else None

    def _compound(self, word: str):
        """Cheapest split into words of at least three letters (two if frequent), by dynamic programming."""
        best: list[tuple[float, tuple[int, ...]] | None] = [(0.0, ())] + [None] * len(word)
        for end in range(2, len(word) + 1):
            for start in range(max(0, end - WIDEST), end - 1):
                row = self.rows.get(word[start:end])
                if row is None or best[start] is None or (end - start == 2 and row > 400):
                    continue
                cost, parts = best[start]
                cost += PART + self._price(row)
                if best[end] is None or cost < best[end][0]:
                    best[end] = (cost, (*parts, row))
        return best[-1]

    def _nearest(self, word: str):
        """The word of least distance, if that is small for the length; ties to the frequent."""
        limit = min(2.5, 0.5 + 0.25 * len(word))
        given = np.frombuffer(word.encode(), np.uint8)
        # An edit of full cost changes the set of letters by at most two: that rules most of the table out.
        changed = np.bitwise_count(self._set ^ _letter_set(given[None])[0])
        near = (np.abs(self._size - len(word)) <= math.ceil(limit)) & (changed <= 2 * limit)
        if not near.any():
            return None
        rows, distance = self._row[near], self._distances(given, near) / 4
        cost = np.where(distance <= limit, distance + RARE * np.log1p(rows), np.inf)
        best = int(cost.argmin())
        return (float(cost[best]), (int(rows[best]),)) if np.isfinite(cost[best]) else None

    def _distances(self, given: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Weighted distances from the letters `given` to the words of `near`, in quarters of an edit, [M]."""
        size = self._size[near]
        width = int(size.max())
        table = np.ascontiguousarray(self._letters[near, :width].T)  # [width, M]
        add = np.full(table.shape, EDIT, np.uint8)  # a letter of the table word that is missing
        add[1:][table[1:] == table[:-1]] = DOUBLE
        add[table == ord("'")] = MARK
        rows = [np.zeros((width + 1, len(size)), np.uint8)]
        rows[0][1:] = np.minimum(np.cumsum(add, axis=0, dtype=np.int64), 200)
        for i, letter in enumerate(given):
            change = self._costs[letter][table]
            if i == 0:
                change[0][table[0] != letter] += FIRST
            drop = DOUBLE if i and letter == given[i - 1] else MARK if letter == ord("'") else EDIT
            last, now = rows[-1], np.empty_like(rows[0])
            now[0] = last[0] + drop
            np.minimum(last[1:] + np.uint8(drop), last[:-1] + change, out=now[1:])
            if i:
                crossed = (table[:-1] == letter) & (table[1:] == given[i - 1])
                np.minimum(now[2:], np.where(crossed, rows[-2][:-2] + np.uint8(SWAP), 250), out=now[2:])
            for j in range(width):
                np.minimum(now[j + 1], now[j] + add[j], out=now[j + 1])
            np.minimum(now, 200, out=now)
            rows.append(now)
        return rows[-1][size, np.arange(len(size))].astype(np.float64)
