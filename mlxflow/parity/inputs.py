"""Seeded inputs, made in NumPy: noise, pictures, times, and words or labels; the edges among them.

Times go over the batch; prompts of all lengths stand in one batch, with numbers in the places that the mask
closes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Prompts of the lengths that matter: none, one word, a few, more than are read.
PROMPTS = ("smiling cat", "", "heart", "a very " + "big " * 30 + "red apple")


class Batch(NamedTuple):
    """x0, x1 `[B, S, S, C]` (for autoencoders x0 is the latents' noise), t `[B]`, and the condition's inputs.
    """

    x0: np.ndarray
    x1: np.ndarray
    t: np.ndarray
    told: tuple[np.ndarray, ...]

    @property
    def xt(self) -> np.ndarray:
        t = self.t[:, None, None, None]
        return t * self.x1 + (1 - t) * self.x0


def random_words(length: int, dim: int, rng: np.random.Generator) -> Callable:
    """vectors `[B, L, E]` and mask `[B, L]` for lengths `[B]`."""

    def words(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors = rng.standard_normal((len(lengths), length, dim), dtype=np.float32)
        return vectors, np.arange(length) < np.asarray(lengths)[:, None]

    return words


def told(network, count: int, which: str, rng: np.random.Generator, table=None) -> tuple[np.ndarray, ...]:
    """Words or labels for `count` samples. which: "mixed", "none" (the null), "longest".

    table: a WordTable, whose vectors of PROMPTS are used instead of random ones.
    """
    if network.kind == "text-unet":
        length = network.config.text.length
        if table is not None:
            prompts = {"mixed": PROMPTS, "none": ("",), "longest": PROMPTS[3:]}[which]
            return tuple(table.encode_batch([prompts[i % len(prompts)] for i in range(count)], length))
        lengths = {"mixed": [2, 0, 1, length, length - 1, 3], "none": [0], "longest": [length]}[which]
        words = random_words(length, network.config.text.word_dim, rng)
        return words(np.resize(lengths, count))
    classes = getattr(network.config, "classes", 0)
    if not classes:
        return ()
    # Every label in turn, the null (`classes`) and class 0 among them.
    labels = {"mixed": (classes + np.arange(count)) % (classes + 1), "none": np.full(count, classes),
              "longest": np.full(count, classes - 1)}
    return (labels[which].astype(np.int32),)


def batch(network, count: int, seed: int, which: str = "mixed", t: float | None = None, table=None) -> Batch:
    rng = np.random.default_rng([seed, 32])
    shape = (count, *network.shape)
    noise_shape = (count, *network.latent_shape) if hasattr(network, "latent_shape") else shape
    x0 = rng.standard_normal(noise_shape, dtype=np.float32)
    x1 = np.clip(0.6 * rng.standard_normal(shape, dtype=np.float32), -1, 1)
    times = (np.arange(count) + 0.5) / count if t is None else np.full(count, t)
    return Batch(x0, x1, times.astype(np.float32), told(network, count, which, rng, table))


def forward_inputs(network, made: Batch) -> tuple[np.ndarray, ...]:
    """What the network is called with."""
    if network.kind == "kl-vae":
        return made.x1, made.x0
    if network.kind == "vq-vae":
        return (made.x1,)
    return made.xt, made.t, *made.told
