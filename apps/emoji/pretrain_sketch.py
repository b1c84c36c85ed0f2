"""Teach the text encoder to sketch: words to 16x16 thumbnails, without the U-Net.

    python apps/emoji/pretrain_sketch.py emoji/ sketch.safetensors --init weights/emoji/text-init.safetensors

    minimise E |sketch(caption) - thumbnail|^2 + 0.1 InfoNCE(pooled(caption), pooled(another caption))

over the training split and compositions of it (data/compose.py). thumbnail is the mean of each 4x4 pixels of the
premultiplied picture; the second term keeps two captions of one picture near each other, so that words that were
never trained on land near those that were.

1. `--memory-steps`: the encoder stays as it is, and the pooled vectors of all captions are made once; with a little
   noise on them the memory alone learns, at ten times the speed of what follows.
2. `--steps`: all of it, with noise on the word vectors, the encoder at a fifth of the rate.

The arrays have a whole model's names (`text.`), so that `mlxflow train --init sketch.safetensors` starts from them;
`--unet RUN` adds a trained U-Net's. Every `--report` steps it says how often the sketch of a training name, and of a
held-out prompt (which it never trains on), is nearest to the right emoji's thumbnail.
"""

import argparse
import time
from pathlib import Path

from mlxflow.runtime import mx

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow.data.captions_split import load_captions
from mlxflow.data.compose import Composer
from mlxflow.data.folder import Record, read_folder
from mlxflow.data.images import load_all, premultiply
from mlxflow.data.stream import Order
from mlxflow.data.words import WordTable
from mlxflow.networks.text import TextConfig, TextEncoder
from mlxflow.networks.unet import sketch_weight
from mlxflow.paths import weights_dir
from mlxflow.training import ema
from mlxflow.training.optimizers import clipped, init_moments, update
from mlxflow.weights import read_arrays, resolve

SIZE, LENGTH, MIDDLE, SHORT = 64, 24, 16, 8
SLOTS, NAME_SHARE, NOISE, WARMUP, DECAY = 512, 0.35, 0.05, 50, 0.9995
# On pooled vectors, as a share of their root mean square, from the first step to the last; compositions in a batch.
POOLED_NOISE, COMPOSED = (0.15, 0.05), 0.1
CONTRAST, HEAT = 0.1, 16.0
# The encoder comes pre-trained: it moves slower than the memory that reads it, or the slots chase it.
ENCODER_RATE = 0.2
# The slots are learnt with noise and asked without: a sharper softmax finds more wording that was never seen (R@1 / R@5
# 18 / 35 % at 1, 21 / 41 at 1.5, 22 / 41 at 2) and as many names up to 1.5 (72.2, 71.7, 69.5 %).
SHARPER = 1.5


class Captions:
    """Every record's texts as rows of the word table, the short ones apart: a batch of those needs no long padding."""

    def __init__(self, table: WordTable, records: list[Record]):
        self.table = table
        self.rows = [[table.tokens(text, LENGTH) for text in (r.text, *r.texts)] for r in records]
        self.short = [[row for row in rows if len(row) <= SHORT] for rows in self.rows]

    def draw(self, index: int, short: bool, rng: np.random.Generator) -> list[int]:
        name = self.rows[index][0]
        if short and len(name) <= SHORT and rng.random() < NAME_SHARE:
            return name
        rows = self.short[index] if short and self.short[index] else self.rows[index]
        return rows[rng.integers(len(rows))]


def padded(table: WordTable, rows: list[list[int]], length: int, noise: np.ndarray | None = None):
    """Word vectors `[B, length, E]` and mask `[B, length]`."""
    ids = np.full((len(rows), length), -1, np.int32)
    for line, row in zip(ids, rows):
        line[: min(len(row), length)] = row[:length]
    vectors = table.vectors(ids)
    return mx.array(vectors if noise is None else vectors + noise), mx.array(ids >= 0)


def thumbnails(records: list[Record], size: int) -> np.ndarray:
    """float32 `[N, size, size, 4]` in [-1, 1]."""
    return np.concatenate([reduced(load_all(records[i : i + 256], SIZE), size) for i in range(0, len(records), 256)])


def reduced(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 `[N, S, S, 4]`, straight alpha, to float32 `[N, size, size, 4]`, premultiplied, in [-1, 1]."""
    block = images.shape[1] // size
    return premultiply(images).reshape(-1, size, block, size, block, 4).mean((2, 4))


class Pooled:
    """The pooled vectors of all captions, made once by an encoder that does not move, and batches of them."""

    def __init__(self, table: WordTable, records: list[Record], encoder: TextEncoder):
        self.table, self.encoder = table, encoder
        texts = [(record.text, *record.texts) for record in records]
        self.starts = np.cumsum([0] + [len(own) for own in texts])
        self.vectors = self.of([text for own in texts for text in own])

    def of(self, texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), 256):
            rows = [self.table.tokens(text, LENGTH) for text in texts[start : start + 256]]
            parts.append(np.array(self.encoder(*padded(self.table, rows, max(map(len, rows)))).pooled))
        return np.concatenate(parts)

    def draw(self, index: np.ndarray, composed: list[str], noise: float, rng: np.random.Generator) -> np.ndarray:
        """A caption of each record, then the composed ones: `[N, D]`."""
        first, past = self.starts[index], self.starts[index + 1]
        chosen = np.where(rng.random(len(index)) < NAME_SHARE, first, rng.integers(first, past))
        vectors = np.concatenate([self.vectors[chosen], self.of(composed)])
        scale = noise * np.sqrt(np.square(vectors).mean(-1, keepdims=True))
        return vectors + scale * rng.standard_normal(vectors.shape, np.float32)


class Judge:
    """How often a sketch is nearest to the right base emoji's thumbnail."""

    def __init__(self, table: WordTable, records: list[Record], pictures: np.ndarray):
        first: dict[str, int] = {}
        for i, record in enumerate(records):
            first.setdefault(record.base, i)
        self.table, chosen = table, list(first.values())
        self.pictures = pictures[chosen].reshape(len(chosen), -1)
        captions = load_captions()
        bases = [records[i] for i in chosen]
        self.questions = {
            "names": [(k, record.text) for k, record in enumerate(bases)],
            "held-out prompts": [(k, captions[record.base].prompt_heldout) for k, record in enumerate(bases)
                                 if record.base in captions],
        }

    def __call__(self, encoder: TextEncoder) -> str:
        return "  ".join(f"{name} R@1 {one:.1f} % R@5 {five:.1f} %" for name, (one, five) in
                         ((name, self.recall(encoder, q)) for name, q in self.questions.items()))

    def recall(self, encoder: TextEncoder, questions: list[tuple[int, str]]) -> tuple[float, float]:
        ranks = []
        for start in range(0, len(questions), 128):
            part = questions[start : start + 128]
            rows = [self.table.tokens(text, LENGTH) for _, text in part]
            made = np.array(encoder(*padded(self.table, rows, LENGTH)).sketch).reshape(len(part), -1)
            far = (self.pictures**2).sum(1) - 2 * made @ self.pictures.T
            own = far[np.arange(len(part)), [k for k, _ in part]]
            ranks += (far < own[:, None]).sum(1).tolist()
        ranks = np.array(ranks)
        return 100 * (ranks < 1).mean(), 100 * (ranks < 5).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--init", type=Path, help="weights whose text encoder to start from")
    parser.add_argument("--unet", type=Path, help="weights whose other arrays go into the output")
    parser.add_argument("--memory-steps", type=int, default=8000, help="with the encoder fixed")
    parser.add_argument("--steps", type=int, default=1000, help="of the whole")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step, with two captions each; twice as many "
                        "with one each while the encoder is fixed")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--report", type=int, default=500)
    options = parser.parse_args()

    table = WordTable.load(weights_dir() / "emoji/words.safetensors")
    records = read_folder(options.data).split("train")
    mx.random.seed(0)
    encoder = TextEncoder(TextConfig(word_dim=table.dim, sketch=SLOTS))
    pictures = thumbnails(records, encoder.config.sketch_shape[0])
    captions, judge, order = Captions(table, records), Judge(table, records, pictures), Order(records, options.batch, 0)
    encoder.sketch.base = mx.array(pictures.mean(0))
    weights = {name: array for name, array in tree_flatten(encoder.parameters())}
    if options.init:
        given = {n.removeprefix("text."): a for n, a in read_arrays(resolve(options.init)).items() if n.startswith("text.")}
        weights |= {n: a.astype(mx.float32) for n, a in given.items()}
        if "sketch.memory.slot_keys" in given:  # this script's own, made sharper at the end
            weights["sketch.memory.slot_keys"] = weights["sketch.memory.slot_keys"] / SHARPER
    others = {}
    if options.unet:
        others = {n: a for n, a in read_arrays(resolve(options.unet)).items() if not n.startswith("text.")}
        if "unet.sketch.weight" not in others:
            others["unet.sketch.weight"] = sketch_weight(others["unet.stem.weight"].astype(mx.float32), 4)
    encoder_rate = ENCODER_RATE if options.init else 1.0
    encoder.update(tree_unflatten(list(weights.items())))
    composer = Composer(records, load_all(records, SIZE))
    started = time.perf_counter()

    def rate_at(n, steps):
        return options.rate * min(1, (n + 1) / WARMUP, 10 * (1 - n / steps))

    def composed(rng, count):
        made = [composer.draw(rng) for _ in range(count)]
        return reduced(np.stack([picture for picture, _ in made]), pictures.shape[1]), [caption for _, caption in made]

    def report(phase, n, steps, error, average):
        if (n + 1) % options.report == 0 or n + 1 == steps:
            encoder.update(tree_unflatten(list(average.items())))
            print(f"{phase} step {n + 1} error {error:.4f} {judge(encoder)} {time.perf_counter() - started:.0f} s",
                  flush=True)
            arrays = {f"text.{name}": array for name, array in average.items()} | others
            arrays["text.sketch.memory.slot_keys"] = SHARPER * arrays["text.sketch.memory.slot_keys"]
            mx.save_safetensors(str(options.output), {n: a.astype(mx.float16) for n, a in arrays.items()},
                                {"words_sha256": table.sha256})

    # 1. The memory alone.
    sketch = {n.removeprefix("sketch."): w for n, w in weights.items() if n.startswith("sketch.")}
    module, average, moments = encoder.sketch, dict(sketch), init_moments("adamw", sketch)

    def sketch_loss(sketch, pooled, target):
        module.update(tree_unflatten(list(sketch.items())))
        return mx.square(module(pooled) - target).mean()

    @mx.compile
    def sketch_step(sketch, average, moments, number, decay, rate, pooled, target):
        error, gradients = mx.value_and_grad(sketch_loss)(sketch, pooled, target)
        gradients, _ = clipped(gradients, 1.0)
        sketch, moments = update(sketch, moments, gradients, rate, number, 0.01)
        return error, sketch, ema.updated(average, sketch, decay), moments

    mean, batch = None, 2 * options.batch
    order_once, vectors = Order(records, batch, 0), Pooled(table, records, encoder) if options.memory_steps else None
    for n in range(options.memory_steps):
        number, k = divmod(n, order_once.steps)
        rng = np.random.default_rng((1, n))
        index = order_once.of_pass(number)[k * batch : (k + 1) * batch]
        extra, captions_made = composed(rng, round(COMPOSED * batch))
        noise = np.interp(n / options.memory_steps, (0, 1), POOLED_NOISE)
        pooled = mx.array(vectors.draw(index, captions_made, noise, rng).astype(np.float32))
        error, sketch, average, moments = sketch_step(
            sketch, average, moments, mx.array(float(n + 1)), mx.array(ema.decay_at(DECAY, n)),
            mx.array(rate_at(n, options.memory_steps)), pooled, mx.array(np.concatenate([pictures[index], extra])))
        mx.eval(error, sketch, average, moments)
        mean = error.item() if mean is None else 0.98 * mean + 0.02 * error.item()
        report("memory", n, options.memory_steps, mean, weights | {f"sketch.{name}": w for name, w in average.items()})
    weights |= {f"sketch.{name}": w for name, w in average.items()}

    # 2. All of it.
    average, moments = dict(weights), init_moments("muon", weights)

    def loss_of(weights, one, other, target):
        encoder.update(tree_unflatten(list(weights.items())))
        a, b = encoder(*one), encoder(*other)
        error = mx.square(a.sketch - target).mean() + mx.square(b.sketch - target).mean()
        unit = [c.pooled * mx.rsqrt(mx.square(c.pooled).sum(-1, keepdims=True) + 1e-6) for c in (a, b)]
        scores, same = HEAT * unit[0] @ unit[1].T, mx.arange(len(target))
        pairs = nn.losses.cross_entropy(scores, same).mean() + nn.losses.cross_entropy(scores.T, same).mean()
        return error / 2 + CONTRAST * pairs / 2, error / 2

    @mx.compile
    def step(weights, average, moments, number, decay, rate, one, other, target):
        (_, error), gradients = mx.value_and_grad(loss_of)(weights, one, other, target)
        gradients, _ = clipped(gradients, 1.0)
        moved, moments = update(weights, moments, gradients, rate, number, 0.01)
        weights = {n: w if n.startswith("sketch.") else weights[n] + encoder_rate * (w - weights[n])
                   for n, w in moved.items()}
        return error, weights, ema.updated(average, weights, decay), moments

    mean = None
    for n in range(options.steps):
        number, k = divmod(n, order.steps)
        rng = np.random.default_rng((0, n))
        index = order.of_pass(number)[k * options.batch : (k + 1) * options.batch]
        batches = []
        for length in (SHORT, MIDDLE):
            rows = [captions.draw(i, length == SHORT, rng) for i in index]
            noise = NOISE * rng.standard_normal((len(rows), length, table.dim), np.float32)
            batches.append(padded(table, rows, length, noise))
        target, rate = mx.array(pictures[index]), rate_at(n, options.steps)
        error, weights, average, moments = step(weights, average, moments, mx.array(float(n + 1)),
                                               mx.array(ema.decay_at(DECAY, n)), mx.array(rate), *batches, target)
        mx.eval(error, weights, average, moments)
        mean = error.item() if mean is None else 0.98 * mean + 0.02 * error.item()
        report("whole", n, options.steps, mean, average)


if __name__ == "__main__":
    main()
