"""Teach the sketch of a text encoder to lay out several things: compositions to 16x16 thumbnails, without the U-Net.

    python -m apps.emoji.pretrain_collage emoji/ collage.safetensors --init weights/emoji/model.safetensors

    minimise E |collage(caption) - thumbnail|^2 + 0.2 (CE(slot of thing 1) + CE(slot of thing 2))
             + 0.3 BCE(several | caption) + E |layout(caption) - layout|^2 + 0.2 BCE(shown | caption)

over compositions of two things (data/compose.py, which says where it put them) of the training split; BCE(several) over
real captions and those of one changed thing, too, which must not be taken for several. Only the collage
(networks/collage.py) learns: encoder and sketch stay as they are, so that a prompt of one thing is sketched as before, and
a U-Net that was trained with the sketch can be asked with it. Names alone would not do for compositions: nearly half the
time a thing is called by a short caption of its own that the memory is sure of ("car", not "automobile").

The arrays of --init go into the output as they are, with the collage's (`text.collage.`). Every `--report` steps it says
how often the sketch of a training name, of a held-out prompt (which it never trains on) and of an unseen composition is
nearest to the right thumbnail.
"""

import argparse
import tempfile
import time
from pathlib import Path

from mlxflow.runtime import mx

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow.data.compose import Composer, Placement
from mlxflow.data.folder import Record, read_folder
from mlxflow.data.images import load_all
from mlxflow.data.recolour import COLOURS, RAINBOW
from mlxflow.data.words import WordTable
from mlxflow.evaluation.compositions import composed
from mlxflow.networks.collage import LAYERS
from mlxflow.networks.text import TextConfig, TextEncoder
from mlxflow.paths import weights_dir
from mlxflow.training import ema
from mlxflow.training.optimizers import clipped, init_moments, update
from mlxflow.weights import read_arrays, resolve
from apps.emoji.pretrain_sketch import (LENGTH, MIDDLE, SHARPER, SIZE, Captions, Judge, by_base, choices, noisy, padded, reduced,
                                        thumbnails)

CHOICE, SEVERAL, PLACED, SHOWN = 0.2, 0.3, 1.0, 0.2
# One thing is what most prompts tell of, and an error there is the worse one: an emoji that exists is not drawn.
ORDINARY = 8.0
# Asked, prompts of one thing are more common still than that: the logit of several is lowered by this. Of held-out prompts'
# thumbnails 73.9 % were found at 0, 74.6 at 1, 75.0 at 2, of unseen compositions' 70.3, 69.1 and 67.2 %.
STRICTER = 1.5
BIAS = "finder.several.bias"
WARMUP, DECAY = 50, 0.997
# The layer that shows the first thing.
MIDDLE_LAYER = [thing for thing, _, _ in LAYERS].index(0)
# Compositions of two things, and those of one thing that is only changed; how often each kind is drawn.
OF_TWO = {"pair": 5, "hold": 3, "dress": 3, "count": 2, "emblem": 2, "change": 2}
OF_ONE = ("recolour", "express")
# Half of the real captions are those that could be taken for several things ("clam with pearl").
LINKS = ("with", "and", "on", "in", "of", "holding", "wearing", "eating", "riding", "two", "three", "flying", "winged")
# A caption of its own stands for a thing where the memory gives it this much of its softmax.
SURE, EVERYDAY = 0.6, 0.45
POOL = 150_000


class Everyday(Composer):
    """A Composer whose captions call things by short captions of theirs, too: `words` by index of the record."""

    words: dict[int, list[list[str]]] = {}

    def said(self, index: int, generator: np.random.Generator) -> str:
        if index not in self.words or generator.random() >= EVERYDAY:
            return super().said(index, generator)
        # One word as often as two, however many there are of each.
        choices = self.words[index][generator.integers(len(self.words[index]))]
        return choices[generator.integers(len(choices))]


def everyday_words(table: WordTable, encoder: TextEncoder, records: list[Record]) -> dict[int, list[list[str]]]:
    """Short captions of base emoji, without colours, that the sketch's memory is sure of: by index, those of one word
    and those of two."""
    first = by_base(records)
    asked = [(i, slot, text.lower().strip()) for slot, i in enumerate(first.values()) for text in dict.fromkeys(records[i].texts)]
    asked = [(i, slot, text) for i, slot, text in asked if len(text.split()) in (1, 2) and text.isascii()
             and not {*text.split()} & {*COLOURS, RAINBOW, "grey", "golden"}]
    sure = []
    for start in range(0, len(asked), 256):
        part = asked[start : start + 256]
        pooled = encoder(*padded(table, [table.tokens(text, LENGTH) for _, _, text in part], LENGTH)).pooled
        chance = np.array(mx.softmax(choices(encoder, pooled), axis=-1))
        sure += [row[slot] > SURE for row, (_, slot, _) in zip(chance, part)]
    words: dict[int, list[list[str]]] = {}
    for (i, _, text), good in zip(asked, sure):
        if good:
            words.setdefault(i, [[], []])[len(text.split()) - 1].append(text)
    return {i: [group for group in groups if group] for i, groups in words.items()}


def layers_of(placed: list[Placement]) -> np.ndarray:
    """The layers of a collage that lie as the parts of a composition do: `[layers, 5]`, scale and shift by x and by y, and 1
    where the layer is shown."""
    layers = np.zeros((len(LAYERS), 5), np.float32)
    first = next(i for i, placement in enumerate(placed) if placement.part == 0)
    for i, placement in enumerate(placed):
        behind = int(placement.scale_x < 0)
        layer = MIDDLE_LAYER if i == first else behind if i < first else MIDDLE_LAYER + i - first
        layers[layer] = (*placement[1:], 1.0)
    return layers


class Pool:
    """`count` compositions of two things, thumbnails as uint8, with the slots of the things and their layers; as many
    captions of one changed thing as a fifth of them."""

    def __init__(self, composer: Composer, table: WordTable, side: int, count: int, seed: int):
        rng, slots = np.random.default_rng(seed), {base: k for k, base in enumerate(by_base(composer.records))}
        slot_of = {r.file_name: slots[r.base] for r in composer.records}
        slot_of |= {code: slots[composer.records[i].base] for code, i in composer.by_code.items()}
        kinds = [kind for kind, share in OF_TWO.items() for _ in range(share) if kind in composer.kinds]
        small, pictures, self.rows, things, layers = [], [], [], [], []
        while len(self.rows) < count:
            kind = kinds[rng.integers(len(kinds))]
            picture, caption, parts, seen = composer.combine(kind, rng)
            if seen:
                one = slot_of[parts[0]]
                things.append((one, one if kind == "count" else slot_of[parts[1]]))
                layers.append(layers_of(composer.placed))
                self.rows.append(table.tokens(caption, LENGTH))
                pictures.append(picture)
            if len(pictures) == 512 or len(self.rows) == count:
                small.append(np.round(127.5 * (reduced(np.stack(pictures), side) + 1)).astype(np.uint8))
                pictures = []
        self.pictures, self.things, self.layers = np.concatenate(small), np.array(things), np.stack(layers)
        self.others, kinds = [], [kind for kind in OF_ONE if kind in composer.kinds]
        while len(self.others) < count // 5:
            _, caption, _, seen = composer.combine(kinds[rng.integers(len(kinds))], rng)
            if seen:
                self.others.append(table.tokens(caption, LENGTH))


class Batches:
    """Batch n, all of it from (seed, n): captions of two things, their thumbnails, slots and layers, and captions of one
    thing."""

    def __init__(self, table: WordTable, captions: Captions, pool: Pool, size: int, seed: int):
        self.table, self.captions, self.pool, self.size, self.seed = table, captions, pool, size, seed
        links = {table.rows[word] for word in LINKS if word in table.rows}
        self.linked = [row for rows in captions.rows for row in rows if links & {*row}]

    def __call__(self, n: int) -> tuple:
        rng, pool = np.random.default_rng((self.seed, n)), self.pool
        index = rng.integers(len(pool.rows), size=self.size)
        pictures = mx.array(pool.pictures[index].astype(np.float32) / 127.5 - 1)
        several = noisy(self.table, [pool.rows[i] for i in index], MIDDLE, rng, dropped=0.0)
        one = [pool.others[i] for i in rng.integers(len(pool.others), size=self.size // 4)]
        if self.linked:
            one += [self.linked[i] for i in rng.integers(len(self.linked), size=3 * self.size // 8)]
        one += [self.captions.draw(i, k % 2 == 0, rng)
                for k, i in enumerate(rng.integers(len(self.captions.rows), size=self.size - len(one)))]
        things, layers = mx.array(pool.things[index]), mx.array(pool.layers[index])
        return several, pictures, things, layers, noisy(self.table, one, MIDDLE, rng)


def compiled_step(encoder: TextEncoder):
    memory, collage = encoder.sketch.memory, encoder.collage

    def loss_of(weights, several, target, slots, layers, ordinary):
        collage.update(tree_unflatten(list(weights.items())))
        said, one = encoder(*several), encoder(*ordinary)
        names, named, how, told = collage.find(several[0], said.tokens, said.mask)
        # As it was taught, with words left out: not as sharp as it is asked.
        scores = memory.scores(memory.query(encoder.pool(names)) + named) / SHARPER
        things = encoder.sketch.picture(encoder.sketch.changed(memory.read(scores), encoder.pool(how)))
        layout, shown = collage.layout(things, said.pooled), layers[..., 4]
        laid = collage.lay(things, layout)
        placed = (shown * mx.square(layout[..., :4] - layers[..., :4]).sum(-1)).sum() / shown.sum()
        seen = nn.losses.binary_cross_entropy(layout[..., 4], shown)
        error = mx.square(laid - target).mean()
        choice = nn.losses.cross_entropy(scores, slots, label_smoothing=0.05).mean()
        alone = collage.finder(one.tokens, one.mask)[1]
        mistaken = (nn.losses.binary_cross_entropy(told, mx.ones_like(told))
                    + ORDINARY * nn.losses.binary_cross_entropy(alone, mx.zeros_like(alone)))
        loss = error + 2 * CHOICE * choice + SEVERAL * mistaken + PLACED * placed + SHOWN * seen
        return loss, error, choice, mistaken, placed, seen

    @mx.compile
    def step(weights, average, moments, number, decay, rate, *batch):
        (_, *parts), gradients = mx.value_and_grad(loss_of)(weights, *batch)
        gradients, _ = clipped(gradients, 1.0)
        weights, moments = update(weights, moments, gradients, rate, number, 0.01)
        return mx.stack(parts), weights, ema.updated(average, weights, decay), moments

    return step


class Unseen:
    """How often the sketch of a composition that training never shows is nearest to the right thumbnail."""

    def __init__(self, table: WordTable, records: list[Record], thumbs: np.ndarray):
        with tempfile.TemporaryDirectory() as folder:
            self.asked = composed(records, SIZE, Path(folder))
            own = reduced(load_all([question.right[0] for question in self.asked], SIZE), thumbs.shape[1])
        self.table = table
        self.known = np.concatenate([own, thumbs[list(by_base(records).values())]]).reshape(len(own) + len(by_base(records)), -1)

    def __call__(self, encoder: TextEncoder) -> str:
        drawn = np.array(encoder(*padded(self.table, [self.table.tokens(q.prompt, LENGTH) for q in self.asked], LENGTH)).sketch)
        far = (self.known**2).sum(1) - 2 * drawn.reshape(len(drawn), -1) @ self.known.T
        rank = (far < np.diag(far)[:, None]).sum(1)
        kinds = np.array([question.group for question in self.asked])
        return f"compositions R@1 {100 * (rank < 1).mean():.1f} % R@5 {100 * (rank < 5).mean():.1f} % (R@5 " + ", ".join(
            f"{kind} {100 * (rank[kinds == kind] < 5).mean():.0f}" for kind in dict.fromkeys(kinds)) + ")"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--init", type=Path, required=True, help="weights with a sketch, and perhaps a collage to go on from")
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--batch", type=int, default=128, help="compositions a step, with as many captions of one thing")
    parser.add_argument("--rate", type=float, default=4.5e-3)
    parser.add_argument("--seed", type=int, default=0, help="another one when it goes on from its own result")
    parser.add_argument("--report", type=int, default=500)
    options = parser.parse_args()

    table, folder = WordTable.load(weights_dir() / "emoji/words.safetensors"), read_folder(options.data)
    records, given = folder.split("train"), read_arrays(resolve(options.init))
    mx.random.seed(options.seed)
    slots = len(given["text.sketch.memory.slot_keys"])
    encoder = TextEncoder(TextConfig(word_dim=table.dim, sketch=slots, collage=True))
    known = {n.removeprefix("text."): a.astype(mx.float32) for n, a in given.items() if n.startswith("text.")}
    encoder.load_weights(list(known.items()), strict=False)

    thumbs = thumbnails(records, encoder.config.sketch_shape[0])
    judge, unseen = Judge(table, folder, records, thumbs), Unseen(table, records, thumbs)
    print(f"as begun {judge(encoder)} {unseen(encoder)}", flush=True)
    composer = Everyday(records, load_all(records, SIZE))
    composer.words = everyday_words(table, encoder, records)
    pool = Pool(composer, table, thumbs.shape[1], POOL, options.seed)
    batches = Batches(table, Captions(table, records), pool, options.batch, options.seed)
    print(f"{len(pool.rows)} compositions, {len(composer.words)} things with words of their own", flush=True)

    step, started = compiled_step(encoder), time.perf_counter()
    weights = dict(tree_flatten(encoder.collage.parameters()))
    if any(name.startswith("collage.") for name in known):  # this script's own
        weights[BIAS] = weights[BIAS] + STRICTER
    average, moments, mean = dict(weights), init_moments("muon", weights), None
    for n in range(options.steps):
        rate = options.rate * min(1, (n + 1) / WARMUP, 2.5 * (1 - n / options.steps))
        numbers = map(mx.array, (float(n + 1), ema.decay_at(DECAY, n), rate))
        parts, weights, average, moments = step(weights, average, moments, *numbers, *batches(n))
        mx.eval(parts, weights, average, moments)
        if not np.isfinite(np.array(parts)).all():
            raise SystemExit(f"pretrain_collage: the errors of step {n + 1} are {np.array(parts)}: try a lower --rate.")
        mean = np.array(parts) if mean is None else 0.98 * mean + 0.02 * np.array(parts)
        if (n + 1) % options.report == 0 or n + 1 == options.steps:
            shipped = average | {BIAS: average[BIAS] - STRICTER}
            encoder.collage.update(tree_unflatten(list(shipped.items())))
            print(f"step {n + 1} error {mean[0]:.4f} choice {mean[1]:.3f} several {mean[2]:.3f} placed {mean[3]:.4f} shown {mean[4]:.3f} {judge(encoder)} "
                  f"{unseen(encoder)} {time.perf_counter() - started:.0f} s", flush=True)
            arrays = given | {f"text.collage.{name}": array for name, array in shipped.items()}
            mx.save_safetensors(str(options.output), {n: a.astype(mx.float16) for n, a in arrays.items()},
                                {"words_sha256": table.sha256})


if __name__ == "__main__":
    main()
