"""Teach the text encoder to sketch: words to 16x16 thumbnails, without the U-Net.

    python apps/emoji/pretrain_sketch.py emoji/ sketch.safetensors --init weights/emoji/text-init.safetensors

    minimise E |sketch(caption) - thumbnail|^2 + 0.2 CE(slot | caption) + 0.1 InfoNCE(pooled(caption), pooled(another))

over the training split and compositions of it (data/compose.py). thumbnail is the mean of each 4x4 pixels of the
premultiplied picture; the last terms keep captions of one picture near each other, so that words that were never
trained on land near those that were.

The sketch's memory starts with a slot for each base emoji: its key is the mean direction of the captions, its value the
thumbnail, both in their leading principal components. That alone finds more than twice as many held-out prompts as
slots trained from noise ever did. Then all of it learns, the encoder at half the rate, with noise on the word
vectors and words left out.

The arrays have a whole model's names (`text.`), so that `mlxflow train --init sketch.safetensors` starts from them;
`--unet RUN` adds a trained U-Net's. Every `--report` steps it says how often the sketch of a training name, and of a
held-out prompt (which it never trains on), is nearest to the right emoji's thumbnail, and how often that of a held-out
combination is nearest among the variants of its base.
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
from mlxflow.networks.text import Memory, Sketch, TextConfig, TextEncoder
from mlxflow.networks.unet import sketch_weight
from mlxflow.paths import weights_dir
from mlxflow.training import ema
from mlxflow.training.optimizers import clipped, init_moments, update
from mlxflow.weights import read_arrays, resolve

SIZE, LENGTH, MIDDLE, SHORT, SLOTS = 64, 24, 16, 8, 1900
NAME_SHARE, NOISE, DROPPED, WARMUP, DECAY = 0.3, 0.12, 0.1, 50, 0.9985
COMPOSED = 0.25  # of a batch
SLOT_KEYS = "sketch.memory.slot_keys"
CLASS, CONTRAST, HEAT = 0.2, 0.1, 16.0
# How sharply a caption chooses among the slots at first: exp(SHARPNESS x cosine).
SHARPNESS = 30.0
# Learnt with noise and words left out, asked without: a sharper softmax chooses better. R@1 / R@5 of held-out prompts'
# thumbnails were 51.6 / 62.8 % at 1, 62.2 / 70.0 at 1.5, 64.4 / 71.2 at 2, 65.0 / 71.4 at 2.5, of names 98.2 to 99.1 %.
SHARPER = 2.0
# The encoder comes pre-trained: it moves slower than the memory that reads it.
ENCODER_RATE = 0.5


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


def noisy(table: WordTable, rows: list[list[int]], length: int, rng: np.random.Generator, dropped: float = DROPPED):
    """Word vectors with noise and a share of the words left out (never all), and their mask."""
    noise = NOISE * rng.standard_normal((len(rows), length, table.dim), np.float32)
    vectors, mask = padded(table, rows, length, noise)
    left = np.array(mask) & (rng.random(mask.shape) >= dropped)
    return vectors, mx.array(np.where(left.any(1, keepdims=True), left, np.array(mask)))


def thumbnails(records: list[Record], size: int) -> np.ndarray:
    """float32 `[N, size, size, 4]` in [-1, 1]."""
    return np.concatenate([reduced(load_all(records[i : i + 256], SIZE), size) for i in range(0, len(records), 256)])


def reduced(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 `[N, S, S, 4]`, straight alpha, to float32 `[N, size, size, 4]`, premultiplied, in [-1, 1]."""
    block = images.shape[1] // size
    return premultiply(images).reshape(-1, size, block, size, block, 4).mean((2, 4))


def by_base(records: list[Record]) -> dict[str, int]:
    """The first record of each base emoji, in the order of the data: base to index."""
    first: dict[str, int] = {}
    for i, record in enumerate(records):
        first.setdefault(record.base, i)
    return first


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


def components(rows: np.ndarray, count: int) -> np.ndarray:
    """The leading right singular vectors of `[N, D]`: `[count, D]`, zeros where there are fewer."""
    found = np.linalg.svd(rows, full_matrices=False)[2][:count]
    return np.pad(found, ((0, count - len(found)), (0, 0)))


def prototypes(encoder: TextEncoder, table: WordTable, records: list[Record], pictures: np.ndarray) -> dict:
    """A sketch whose memory has one slot for each of `records`: arrays by name, as `encoder.sketch` has them."""
    sketch, key, value = encoder.sketch, Memory.KEY, Memory.VALUE
    texts = [(record.text, *record.texts) for record in records]
    starts, flat = np.cumsum([0] + [len(own) for own in texts])[:-1], [text for own in texts for text in own]
    vectors = []
    for start in range(0, len(flat), 256):
        rows = [table.tokens(text, LENGTH) for text in flat[start : start + 256]]
        vectors.append(np.array(encoder(*padded(table, rows, LENGTH)).pooled))
    vectors = unit(np.concatenate(vectors))
    query = components(vectors, key)
    keys = unit(np.add.reduceat(unit(vectors @ query.T), starts, axis=0))

    # A cell's pixels in the leading components of all cells, a picture's cells in those of all pictures.
    base, cells = pictures.mean(0), Sketch.CELLS
    side, features = pictures.shape[1] // cells, sketch.pixels.weight.shape[1]
    blocks = (pictures - base).reshape(-1, cells, side, cells, side, pictures.shape[3]).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(len(pictures), cells * cells, -1)
    pixels = components(blocks.reshape(-1, blocks.shape[2])[::7], features)
    drawn = (blocks @ pixels.T).reshape(len(pictures), -1)
    middle = drawn.mean(0)
    down = components(drawn - middle, value)
    values = (drawn - middle) @ down.T
    slots = {}
    for name, array in (("slot_keys", SHARPNESS * keys), ("slot_values", values)):
        slots[f"memory.{name}"] = np.concatenate([array, np.array(sketch.memory[name])[len(array) :]])
    arrays = {**slots, "memory.query.weight": query, "base": base, "down.weight": down.T, "down.bias": middle,
              "pixels.weight": pixels.T}
    return {name: mx.array(array.astype(np.float32)) for name, array in arrays.items()}


class Judge:
    """How often a sketch is nearest to the right thumbnail: of all base emoji, or of all variants of its base."""

    def __init__(self, table: WordTable, folder, records: list[Record], pictures: np.ndarray):
        self.table, chosen = table, list(by_base(records).values())
        captions, bases = load_captions(), [records[i] for i in chosen]
        own = pictures[chosen].reshape(len(chosen), -1)
        every = np.arange(len(chosen))
        self.questions = {
            "names": (own, [(k, record.text, every) for k, record in enumerate(bases)]),
            "held-out prompts": (own, [(k, captions[record.base].prompt_heldout, every)
                                       for k, record in enumerate(bases) if record.base in captions]),
        }
        asked, known = folder.split("holdout"), folder.records
        variants: dict[str, list[int]] = {}
        for i, record in enumerate(known):
            variants.setdefault(record.base, []).append(i)
        place = {record.file_name: i for i, record in enumerate(known)}
        self.questions["combinations"] = (thumbnails(known, pictures.shape[1]).reshape(len(known), -1), [
            (place[r.file_name], r.text, np.array(variants[r.base])) for r in asked])

    def __call__(self, encoder: TextEncoder) -> str:
        said = []
        for name, (pictures, asked) in self.questions.items():
            drawn, chosen = self.recall(encoder, pictures, asked)
            said.append(f"{name} R@1 {drawn[0]:.1f} % R@5 {drawn[1]:.1f} %")
            if name == "held-out prompts":
                said.append(f"(slot R@1 {chosen[0]:.1f} % R@5 {chosen[1]:.1f} %)")
        return " ".join(said)

    def recall(self, encoder: TextEncoder, pictures, asked) -> tuple[tuple[float, float], tuple[float, float]]:
        """R@1 and R@5 in per cent, of the thumbnail and of the memory's slot (whose places are the base emoji's)."""
        drawn, chosen, slots = [], [], len(encoder.sketch.memory.slot_keys)
        for start in range(0, len(asked), 128):
            part = asked[start : start + 128]
            said = encoder(*padded(self.table, [self.table.tokens(text, LENGTH) for _, text, _ in part], LENGTH))
            made = np.array(said.sketch).reshape(len(part), -1)
            far = (pictures**2).sum(1) - 2 * made @ pictures.T
            drawn += [(line[among] < line[own]).sum() for line, (own, _, among) in zip(far, part)]
            near = np.array(choices(encoder, said.pooled))
            chosen += [(line > line[own]).sum() for line, (own, _, _) in zip(near, part) if own < slots]
        return tuple(tuple(100 * (np.array(r) < k).mean() for k in (1, 5)) for r in (drawn, chosen))


def choices(encoder: TextEncoder, pooled: mx.array) -> mx.array:
    """The memory's scores of its slots, before the softmax: `[B, D]` to `[B, S]`."""
    memory = encoder.sketch.memory
    return memory.norm(memory.query(pooled)) @ memory.slot_keys.T / Memory.KEY**0.5


class Batches:
    """Batch n: two captions of each picture, a short one and any, and compositions; all of it follows from (seed, n).
    People in many skin tones come twice as often as things, as in recipe.toml."""

    def __init__(self, table: WordTable, records: list[Record], pictures: np.ndarray, size: int, seed: int):
        self.table, self.pictures, self.size, self.seed = table, pictures, size, seed
        self.captions, self.order = Captions(table, records), Order(records, size, seed, variants=0.5)
        self.composer = Composer(records, load_all(records, SIZE))
        slots = {base: k for k, base in enumerate(by_base(records))}
        self.slot_of = np.array([slots[record.base] for record in records])

    def __call__(self, n: int) -> tuple:
        """(vectors, mask) of the short captions, of any, of the compositions; then thumbnails of both kinds and slots."""
        number, k = divmod(n, self.order.steps)
        rng = np.random.default_rng((self.seed, n))
        index = self.order.of_pass(number)[k * self.size : (k + 1) * self.size]
        texts = [noisy(self.table, [self.captions.draw(i, length == SHORT, rng) for i in index], length, rng)
                 for length in (SHORT, MIDDLE)]
        made = [self.composer.draw(rng) for _ in range(round(2 * COMPOSED * self.size))]
        texts.append(noisy(self.table, [self.table.tokens(caption, LENGTH) for _, caption in made], MIDDLE, rng))
        composed = reduced(np.stack([picture for picture, _ in made]), self.pictures.shape[1])
        return *texts, *map(mx.array, (self.pictures[index], composed, self.slot_of[index]))


def start(encoder: TextEncoder, given: dict, begin) -> dict:
    """Weights to start from: those given; where they have no memory with a slot an emoji, what `begin()` makes of it."""
    weights = dict(tree_flatten(encoder.parameters()))
    given = {n: a for n, a in given.items() if not n.startswith("collage.")}  # to be taught anew after this
    if "sketch.change.weight" not in given:
        given = {n: a for n, a in given.items() if not n.startswith("sketch.")}
    encoder.update(tree_unflatten(list((weights | given).items())))
    if SLOT_KEYS in given:  # this script's own, made sharper at the end
        given = given | {SLOT_KEYS: given[SLOT_KEYS] / SHARPER}
    else:
        given = given | {f"sketch.{name}": array for name, array in begin().items()}
    return weights | given


def compiled_step(encoder: TextEncoder, encoder_rate: float):
    def loss_of(weights, one, other, composed, target, composition, slot):
        encoder.update(tree_unflatten(list(weights.items())))
        a, b, c = encoder(*one), encoder(*other), encoder(*composed)
        errors = [mx.square(x.sketch - y).mean((1, 2, 3)) for x, y in ((a, target), (b, target), (c, composition))]
        error = mx.concatenate(errors).mean()
        choice = [nn.losses.cross_entropy(choices(encoder, x.pooled), slot, label_smoothing=0.05).mean() for x in (a, b)]
        choice = sum(choice) / 2
        units = [x.pooled * mx.rsqrt(mx.square(x.pooled).sum(-1, keepdims=True) + 1e-6) for x in (a, b)]
        scores, same = HEAT * units[0] @ units[1].T, mx.arange(len(target))
        pairs = nn.losses.cross_entropy(scores, same).mean() + nn.losses.cross_entropy(scores.T, same).mean()
        return error + CLASS * choice + CONTRAST * pairs / 2, error, choice

    @mx.compile
    def step(weights, average, moments, number, decay, rate, *batch):
        (_, error, choice), gradients = mx.value_and_grad(loss_of)(weights, *batch)
        gradients, _ = clipped(gradients, 1.0)
        moved, moments = update(weights, moments, gradients, rate, number, 0.01)
        weights = {n: w if n.startswith("sketch.") else weights[n] + encoder_rate * (w - weights[n])
                   for n, w in moved.items()}
        return mx.stack([error, choice]), weights, ema.updated(average, weights, decay), moments

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--init", type=Path, help="weights whose text encoder to start from")
    parser.add_argument("--unet", type=Path, help="weights whose other arrays go into the output")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64, help="pictures a step, with two captions each")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="another one when it goes on from its own result")
    parser.add_argument("--report", type=int, default=500)
    options = parser.parse_args()

    table, folder = WordTable.load(weights_dir() / "emoji/words.safetensors"), read_folder(options.data)
    records = folder.split("train")
    mx.random.seed(options.seed)
    encoder = TextEncoder(TextConfig(word_dim=table.dim, sketch=SLOTS))
    pictures = thumbnails(records, encoder.config.sketch_shape[0])
    judge, batches = Judge(table, folder, records, pictures), Batches(table, records, pictures, options.batch, options.seed)

    def begin():
        first = list(by_base(records).values())
        return prototypes(encoder, table, [records[i] for i in first], pictures[first])

    given = read_arrays(resolve(options.init)) if options.init else {}
    given = {n.removeprefix("text."): a.astype(mx.float32) for n, a in given.items() if n.startswith("text.")}
    weights = start(encoder, given, begin)

    def asked(weights):
        """As it is asked: with the slots sharper; the encoder gets these."""
        weights = weights | {SLOT_KEYS: SHARPER * weights[SLOT_KEYS]}
        encoder.update(tree_unflatten(list(weights.items())))
        return weights

    asked(weights)
    print(f"as begun {judge(encoder)}", flush=True)
    others = {}
    if options.unet:
        others = {n: a for n, a in read_arrays(resolve(options.unet)).items() if not n.startswith("text.")}
        if "unet.sketch.weight" not in others:
            others["unet.sketch.weight"] = sketch_weight(others["unet.stem.weight"].astype(mx.float32), 4)

    step = compiled_step(encoder, ENCODER_RATE if options.init else 1.0)
    average, moments, mean, started = dict(weights), init_moments("muon", weights), None, time.perf_counter()
    for n in range(options.steps):
        rate = options.rate * min(1, (n + 1) / WARMUP, 4 * (1 - n / options.steps))
        numbers = map(mx.array, (float(n + 1), ema.decay_at(DECAY, n), rate))
        errors, weights, average, moments = step(weights, average, moments, *numbers, *batches(n))
        mx.eval(errors, weights, average, moments)
        mean = np.array(errors) if mean is None else 0.98 * mean + 0.02 * np.array(errors)
        if (n + 1) % options.report == 0 or n + 1 == options.steps:
            shipped = asked(average)
            print(f"step {n + 1} error {mean[0]:.4f} choice {mean[1]:.3f} {judge(encoder)} "
                  f"{time.perf_counter() - started:.0f} s", flush=True)
            arrays = {f"text.{name}": array for name, array in shipped.items()} | others
            mx.save_safetensors(str(options.output), {n: a.astype(mx.float16) for n, a in arrays.items()},
                                {"words_sha256": table.sha256})


if __name__ == "__main__":
    main()
