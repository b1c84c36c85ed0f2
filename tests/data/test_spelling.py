"""The vectorised edit distance against a plain one, and the choice between the ways to read a word."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlxflow.data.spelling import DOUBLE, FIRST, MARK, SWAP, Spelling, _substitution_costs

LETTERS = st.text("abcehmnt'", min_size=3, max_size=8).filter(lambda w: w[0] != "'")


def spelling(words):
    return Spelling(words, {word: row for row, word in enumerate(words)})


def plain_distance(given_word, word):
    """The recurrence of optimal string alignment, cell by cell."""
    costs = _substitution_costs()
    a, b = given_word, word
    add = [MARK if c == "'" else DOUBLE if j and c == b[j - 1] else 4 for j, c in enumerate(b)]
    drop = [DOUBLE if i and c == a[i - 1] else MARK if c == "'" else 4 for i, c in enumerate(a)]
    d = np.zeros((len(a) + 1, len(b) + 1))
    d[0, 1:], d[1:, 0] = np.cumsum(add), np.cumsum(drop)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            change = costs[ord(x), ord(y)] + (FIRST if i == j == 1 and x != y else 0)
            d[i, j] = min(d[i - 1, j] + drop[i - 1], d[i, j - 1] + add[j - 1], d[i - 1, j - 1] + change)
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + SWAP)
    return d[-1, -1]


@given(LETTERS, st.lists(LETTERS, min_size=1, max_size=6, unique=True))
def test_distances_equal_the_plain_recurrence(word, words):
    table = spelling(words)
    letters = np.frombuffer(word.encode(), np.uint8)
    got = table._distances(letters, np.ones(len(words), bool))
    assert got.tolist() == [plain_distance(word, other) for other in words]


def test_among_equals_the_frequent_word_wins():
    assert spelling(["house", "horse", "moon"]).resolve("hovse") == (0,)
    assert spelling(["horse", "house", "moon"]).resolve("hovse") == (0,)


def test_words_run_together_split_into_the_fewest():
    table = spelling(["rain", "bow", "rainbow", "cat"])
    assert table.resolve("rainbowcat") == (2, 3)


def test_endings_lead_to_the_stem():
    table = spelling(["unicorn", "berry", "stop"])
    assert table.resolve("unicorns") == (0,)
    assert table.resolve("berries") == (1,)
    assert table.resolve("stopping") == (2,)


def test_unknown_numbers_and_signs_fall_into_digits():
    table = spelling(["1", "2", "cat", "!"])
    assert table.resolve("2112") == (1, 0, 0, 1)
    assert table.resolve("!!") == (3, 3)


def test_far_words_stay_unknown():
    assert spelling(["moon", "squirrel"]).resolve("zzyzxw") == ()
    assert spelling(["moon", "squirrel"]).resolve("moom") == (0,)
