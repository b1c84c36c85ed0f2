"""Prompts to word vectors: a tokenizer, a table of 35,000 English words, and a look-up for misspelt ones.

The table (`words.safetensors`, made by apps/emoji/build_words.py) holds words, most frequent first, and one
int8 vector a word with a scale a row. A word that is not in it goes to table words by spelling (see
`spelling.py`), so every prompt becomes a list of row numbers and nothing else. NumPy only.

Tokens: Unicode NFKC, lower case, words split at everything that is no letter, digit or inner apostrophe.
Emoji become their CLDR name, text smileys a word. `& + = % $ @ *` are always words; `! ? #` only where they
stand alone (`#` also before a digit), since "cake!" means cake. Words of a script the table does not know are
left out.
"""

import hashlib
import json
import re
import unicodedata
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from mlxflow.errors import MlxflowError

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|(?<!\S)[!?#]+(?!\S)|#(?=\d)|[&+=%$€£¥@*°]")
SMILEYS = {
    ":)": "smile",
    ":-)": "smile",
    ":d": "grinning",
    ":-d": "grinning",
    ";)": "wink",
    ";-)": "wink",
    ":(": "sad",
    ":-(": "sad",
    ":'(": "crying",
    "<3": "heart",
    "</3": "broken heart",
    ":p": "tongue",
    ":-p": "tongue",
    ":o": "surprised",
    ":-o": "surprised",
    ":*": "kiss",
    "^^": "happy",
    "^_^": "happy",
    "-_-": "annoyed",
    ":|": "neutral",
    ":/": "confused",
}
SMILEY = re.compile("|".join(rf"(?<!\S){re.escape(s)}(?!\S)" for s in sorted(SMILEYS, key=len, reverse=True)))


def plain(prompt: str) -> str:
    """NFKC, lower case, straight apostrophes, emoji and text smileys as words."""
    if not prompt.isascii():
        prompt = _name_emoji(prompt)
        prompt = unicodedata.normalize("NFKC", prompt).replace("\u2019", "'").replace("\u2018", "'")
    return SMILEY.sub(lambda match: SMILEYS[match[0]], prompt.lower())


@lru_cache(maxsize=1)
def _emoji_names() -> dict[str, str]:
    from mlxflow.data.cldr import load_emoji, to_text

    return {to_text(code).replace("\ufe0f", ""): emoji.name for code, emoji in load_emoji().items()}


def _name_emoji(prompt: str) -> str:
    """Each longest run of characters that is an emoji becomes its CLDR name (ASCII ones stay)."""
    names, parts, i = _emoji_names(), [], 0
    text = prompt.replace("\ufe0f", "")
    while i < len(text):
        size = 0
        if not text[i].isalpha() or ord(text[i]) > 0x1F000:
            size = next((n for n in range(min(14, len(text) - i), 0, -1) if text[i : i + n] in names), 0)
        if size and not text[i : i + size].isascii():
            parts.append(f" {names[text[i : i + size]]} ")
            i += size
        else:
            parts.append(text[i])
            i += 1
    return "".join(parts)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    kinds = {"I8": np.int8, "U8": np.uint8, "F32": np.float32}
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + size :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }


class WordTable:
    """Rows of word vectors and the way from a prompt to them. `dim` is the length of a vector, E."""

    def __init__(self, words: list[str], vectors: np.ndarray, scale: np.ndarray, path: Path | None = None):
        """`words` most frequent first; `vectors` int8 [N, E]; `scale` float32 [N]."""
        self.words = words
        self.rows = {word: row for row, word in enumerate(words)}
        self.dim = vectors.shape[1]
        self._vectors, self._scale, self._path = vectors, scale, path
        self._resolved: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, path: str | Path) -> "WordTable":
        """Read `words.safetensors`. Raises MlxflowError when the file is missing or is not a word table."""
        path = Path(path)
        try:
            tensors = _read_safetensors(path)
            words = tensors["words"].tobytes().decode().split("\n")
            if len(words) != len(tensors["vectors"]) or len(words) != len(tensors["scale"]):
                raise ValueError("lengths differ")
            return cls(words, tensors["vectors"], tensors["scale"], path)
        except FileNotFoundError:
            raise MlxflowError(
                f"{path} is missing: copy the words.safetensors that belongs to the weights there."
            )
        except (KeyError, ValueError, TypeError) as error:
            raise MlxflowError(f"{path} is not a word table ({error}): copy it again from the weights.")

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal digest of words, vectors and scales: weights name the table they need by it."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        digest.update(np.ascontiguousarray(self._vectors).tobytes())
        digest.update(np.ascontiguousarray(self._scale).tobytes())
        return digest.hexdigest()

    def tokens(self, prompt: str, length: int = 24) -> list[int]:
        """Row numbers of the prompt's first `length` words; empty when nothing in it is a word.

        Only the first 1,000 characters are read: words that resolve to nothing cost time and fill no place.
        """
        rows: list[int] = []
        for word in WORD.findall(plain(prompt[:1000])):
            if len(rows) >= length:
                break
            rows.extend(self._lookup(word))
        return rows[:length]

    def vectors(self, rows) -> np.ndarray:
        """Row numbers (any shape) to float32 vectors [..., E]; a negative row gives zeros."""
        rows = np.asarray(rows, np.int64)
        scale = np.where(rows < 0, np.float32(0), self._scale[rows])
        return self._vectors[rows] * scale[..., None]

    def token_batch(self, prompts: list[str], length: int = 24) -> np.ndarray:
        """Row numbers int32 [B, length], -1 where there is no word: the compact form for a training set."""
        batch = np.full((len(prompts), length), -1, np.int32)
        for line, prompt in zip(batch, prompts):
            rows = self.tokens(prompt, length)
            line[: len(rows)] = rows
        return batch

    def encode_batch(self, prompts: list[str], length: int = 24) -> tuple[np.ndarray, np.ndarray]:
        """Prompts to vectors float32 [B, length, E] (about unit variance) and mask bool [B, length]."""
        batch = self.token_batch(prompts, length)
        return self.vectors(batch), batch >= 0

    def encode(self, prompt: str, length: int = 24) -> tuple[np.ndarray, np.ndarray]:
        """One prompt to vectors float32 [length, E] and mask bool [length], all False without a word."""
        vectors, mask = self.encode_batch([prompt], length)
        return vectors[0], mask[0]

    def _lookup(self, word: str) -> tuple[int, ...]:
        row = self.rows.get(word)
        if row is not None:
            return (row,)
        if word not in self._resolved:
            if len(self._resolved) >= 10_000:
                self._resolved.clear()
            self._resolved[word] = self._spelling.resolve(word)
        return self._resolved[word]

    @cached_property
    def _spelling(self):
        from mlxflow.data.spelling import Spelling

        return Spelling(self.words, self.rows)
