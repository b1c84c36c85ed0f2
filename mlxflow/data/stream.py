"""The training stream: endless batches whose order follows from (seed, pass) alone, from any step on.

A pass is a permutation of the groups (a base emoji and its variants are one group), each giving one of its
pictures: 2,000 skin-tone tiles do not drown 1,600 things. (With `variants` above 0 a group of many comes more than
once, so that its pictures are not six times as rare as others.) Which picture, caption and augmentation a draw gets
comes from a generator made from (seed, purpose, pass, draw), so the position is one number, the step, and a
resumed run sees bit for bit what an uninterrupted one sees.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import mlx.data as dx
import numpy as np

from mlxflow.data.augment import augment
from mlxflow.data.compose import Composer
from mlxflow.data.folder import Record
from mlxflow.data.images import premultiply

_ORDER, _DRAW = 1, 2
# A pass is at least this many batches, so that the partial batch that is left out at its end stays small.
_BATCHES_A_PASS = 8


class Batch(NamedTuple):
    """images float32 `[B, S, S, 4]` in [-1, 1], premultiplied; vectors float32 `[B, L, E]`; mask bool `[B, L]`."""

    images: np.ndarray
    vectors: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class StreamConfig:
    """batch counts all ranks; shift, scale and flip are `augment`'s; compose is the share of compositions; a
    group of k pictures comes round(k^variants) times in a pass."""

    batch: int
    seed: int = 0
    name_share: float = 0.3
    shift: int = 0
    scale: float = 0.0
    flip: float = 0.0
    compose: float = 0.0
    variants: float = 0.0
    rank: int = 0
    size: int = 1


def groups_of(records: list[Record]) -> list[np.ndarray]:
    """Record numbers by base emoji (a record without one is a group of its own), in order of appearance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        groups[f"{record.style}/{record.base or record.file_name}"].append(i)
    return [np.array(g) for g in groups.values()]


class Order:
    """Which record each draw of a pass takes."""

    def __init__(self, records: list[Record], batch: int, seed: int, variants: float = 0.0):
        self.groups = groups_of(records)
        self.seed = seed
        self.turns = np.concatenate([np.full(round(len(group) ** variants), g) for g, group in enumerate(self.groups)])
        rounds = -(-_BATCHES_A_PASS * batch // len(self.turns))
        self.rounds = max(1, rounds)
        self.steps = self.rounds * len(self.turns) // batch

    def of_pass(self, number: int) -> np.ndarray:
        """Record numbers, int64, at least `steps * batch` of them."""
        generator = np.random.default_rng([self.seed, _ORDER, number])
        order = np.concatenate([generator.permutation(self.turns) for _ in range(self.rounds)])
        picks = generator.random(len(order))
        return np.array([self.groups[g][int(p * len(self.groups[g]))] for g, p in zip(order, picks)])


def caption_of(record: Record, generator: np.random.Generator, name_share: float) -> str:
    """The name, or one of the other captions."""
    if not record.texts or generator.random() < name_share:
        return record.text
    return record.texts[generator.integers(len(record.texts))]


def stream(records: list[Record], images: np.ndarray, encode: Callable[[str], tuple[np.ndarray, np.ndarray]],
           config: StreamConfig, step: int = 0, stride: int = 1) -> Iterator[Batch]:
    """Batches of this rank's share, every `stride`-th from `step` on, without end.

    images: uint8 `[N, S, S, 4]`, straight alpha, in the order of `records`. encode: caption to word vectors
    `[L, E]` and mask `[L]`.
    """
    order = Order(records, config.batch, config.seed, config.variants)
    share = config.batch // config.size
    composer = Composer(records, images) if config.compose else None

    def sample(number: int) -> Callable[[dict], dict]:
        def draw(item: dict) -> dict:
            index = int(item["record"])
            generator = np.random.default_rng([config.seed, _DRAW, number, int(item["draw"])])
            if composer and generator.random() < config.compose:
                image, caption = composer.draw(generator)
            else:
                image, caption = images[index], caption_of(records[index], generator, config.name_share)
            image = augment(image, caption, generator, shift=config.shift, scale=config.scale, flip=config.flip)
            vectors, mask = encode(caption)
            return {"image": image, "vectors": vectors, "mask": mask.astype(np.uint8)}
        return draw

    while True:
        number, done = divmod(step, order.steps)
        picks = order.of_pass(number)[:order.steps * config.batch]
        mine = np.arange(len(picks)).reshape(order.steps, config.size, share)[done::stride, config.rank].reshape(-1)
        buffer = dx.buffer_from_vector([{"draw": np.int64(i), "record": np.int64(r)} for i, r in enumerate(picks)])
        batches = buffer.perm(mine.tolist()).sample_transform(sample(number)).batch(share).ordered_prefetch(2, 1)
        for batch in batches:
            yield Batch(premultiply(batch["image"]), batch["vectors"], batch["mask"].astype(bool))
            step += stride
