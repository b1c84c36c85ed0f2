"""Unknown words to known ones: stretched letters, endings, misspellings, words run together.

Every candidate has a cost, and the cheapest wins:

    spelling  weighted edit distance + RARE ln(1 + rank)      optimal string alignment (Damerau-Levenshtein without
                                                              edits inside a transposition), against all words at once
    ending    ENDING + RARE ln(1 + rank of the stem)          "squirrels", "pizzaish"
    compound  per part: PART + RARE ln(1 + rank of the part)  "birthdaycake"

Ranks are row numbers of the table, whose words stand most frequent first. The weights were chosen on synthetic
typos and checked on hand-written ones (apps/emoji/text_eval.py).
"""

import itertools
import math
import re
import unicodedata

import numpy as np

RARE = 0.09
ENDING = 0.35
PART = 0.55
ENDINGS = ("'s", "s", "es", "ed", "d", "ing", "er", "ers", "y", "ly", "ish", "like", "less", "ness", "'")
WIDEST = 18
# Edit costs in quarters. A letter too many or too few that repeats its neighbour is half a mistake.
EDIT, DOUBLE, VOWEL, SWAP, MARK, FIRST = 4, 2, 3, 3, 1, 2
VOWELS = b"aeiouy"


class Spelling:
    """Look-up over `words` (most frequent first); `rows` maps each word to its row."""

    def __init__(self, words: list[str], rows: dict[str, int]):
        self.rows = rows
        sized = [(row, word.encode()) for row, word in enumerate(words) if word.isascii() and word[0].isalpha()]
        sized = [(row, word) for row, word in sized if 2 < len(word) <= WIDEST]
        self._row = np.array([row for row, _ in sized], np.int64)
        self._size = np.array([len(word) for _, word in sized], np.int64)
        self._letters = np.array([word for _, word in sized], f"S{WIDEST}").view(np.uint8).reshape(-1, WIDEST)

    def resolve(self, word: str) -> tuple[int, ...]:
        """Rows that stand for a word outside the table: mostly one, several for a compound, none if hopeless."""
        if word.isdigit() or not word[0].isalpha():
            return tuple(self.rows[sign] for sign in word if sign in self.rows)
        word = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
        if not word.isascii():
            return ()
        stretched = self._unstretch(word)
        if stretched is not None:
            return (stretched,)
        word = re.sub(r"(.)\1{2,}", r"\1\1", word)[:40]
        candidates = [c for c in (self._ending(word), self._nearest(word), self._compound(word)) if c]
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
        """The word of least weighted distance, if the distance is small for the length; ties to the frequent."""
        limit = min(2.5, 0.5 + 0.25 * len(word))
        near = np.abs(self._size - len(word)) <= math.ceil(limit)
        if not near.any() or len(word) > WIDEST + 2:
            return None
        rows, distance = self._row[near], self._distances(word, near) / 4
        cost = np.where(distance <= limit, distance + RARE * np.log1p(rows), np.inf)
        best = int(cost.argmin())
        return (float(cost[best]), (int(rows[best]),)) if np.isfinite(cost[best]) else None

    def _distances(self, word: str, near: np.ndarray) -> np.ndarray:
        """Weighted distances from `word` to the words chosen by `near`, in quarters of an edit, [M]."""
        size = self._size[near]
        width = int(size.max())
        table = np.ascontiguousarray(self._letters[near, :width].T)  # [width, M]
        given = np.frombuffer(word.encode(), np.uint8)
        vowel = np.isin(table, list(VOWELS))
        add = np.full(table.shape, EDIT, np.uint8)  # a letter of the table word that is missing
        add[1:][table[1:] == table[:-1]] = DOUBLE
        add[table == ord("'")] = MARK
        rows = [np.zeros((width + 1, len(size)), np.uint8)]
        rows[0][1:] = np.minimum(np.cumsum(add, axis=0, dtype=np.int64), 200)
        for i, letter in enumerate(given):
            same = table == letter
            swap_cost = np.where(same, 0, VOWEL if letter in VOWELS else EDIT).astype(np.uint8)
            if letter in VOWELS:
                swap_cost[~same & ~vowel] = EDIT
            if i == 0:
                swap_cost[0][~same[0]] += FIRST
            drop = DOUBLE if i and letter == given[i - 1] else MARK if letter == ord("'") else EDIT
            last, now = rows[-1], np.empty_like(rows[0])
            now[0] = last[0] + drop
            np.minimum(last[1:] + np.uint8(drop), last[:-1] + swap_cost, out=now[1:])
            if i:
                crossed = (table[:-1] == letter) & (table[1:] == given[i - 1])
                np.minimum(now[2:], np.where(crossed, rows[-2][:-2] + np.uint8(SWAP), 250), out=now[2:])
            for j in range(width):
                np.minimum(now[j + 1], now[j] + add[j], out=now[j + 1])
            np.minimum(now, 200, out=now)
            rows.append(now)
        return rows[-1][size, np.arange(len(size))].astype(np.float64)
