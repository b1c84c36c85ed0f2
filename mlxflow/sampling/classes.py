"""Drawing from models of classes, of nothing, and of latents: the same solvers as for words.

Picture i has the noise of seed + i alone, whatever else is drawn with it; pictures are drawn `batch` at a time, and
another batch may round differently in a pixel's last bit.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlxflow import runtime, weights
from mlxflow.data.labelled import to_rgba
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.sampling.pipeline import Settings, check_settings, states

BATCH = 16
MAX_PICTURES = 10_000


class Drawn(NamedTuple):
    """values float32 `[B, S, S, C]`, about [-1, 1]; nfe: how often the network was asked for each."""

    values: np.ndarray
    nfe: int


class ClassSampler:
    """A model that is ready to draw classes (or, for an unconditional one, pictures of no class)."""

    def __init__(self, model: weights.Model):
        network = model.network
        if model.words_path is not None:
            raise MlxflowError(f"{model.source} draws words, not classes: use `mlxflow generate`.")
        if not hasattr(network, "predict"):
            raise MlxflowError(f"{model.source} is an autoencoder: train a model in its latent space, and draw from that.")
        self.model, self.network = model, network
        self.names: list[str] = model.config.get("classes", [])
        self.velocity = model.velocity(compiled=runtime.device() != "cpu")
        process = model.config["process"]
        self.path, self.last = weights.path_of(process), process["floor"]
        self.decoder, self.scale = None, 1.0
        if model.autoencoder_path is not None:
            self.decoder = weights.load(model.autoencoder_path, dtype=mx.float32).network
            self.scale = model.config["autoencoder"]["scale"]

    @classmethod
    def load(cls, path: str | Path) -> "ClassSampler":
        return cls(weights.load(path))

    def label(self, text: str) -> int:
        """The number of a class, from its name or its number. Raises MlxflowError that lists the classes."""
        if not self.names:
            raise MlxflowError(f"{self.model.source} was trained without classes: leave the label out.")
        if text in self.names:
            return self.names.index(text)
        lower = [name.lower() for name in self.names]
        if text.strip().lower() in lower:
            return lower.index(text.strip().lower())
        if text.strip().isdecimal() and int(text) < len(self.names):
            return int(text)
        raise MlxflowError(f"There is no class '{text}': there are {', '.join(self.names[:20])}"
                           f"{' ...' if len(self.names) > 20 else ''}.")

    def draw(self, labels: Sequence[int] | None, count: int, seed: int, settings: Settings,
             batch: int = BATCH) -> Iterator[Drawn]:
        """`count` pictures, `batch` at a time. labels: one a picture, or None: of no class (the null where there are
        classes, which guidance cannot lead away from)."""
        if not 1 <= count <= MAX_PICTURES:
            raise MlxflowError(f"The number of pictures must be between 1 and {MAX_PICTURES:,}, not {count}.")
        check_settings(settings, self.model.config)
        if settings.guidance != 1 and labels is None:
            raise MlxflowError("Guidance needs a class to follow: choose one, or set the guidance to 1.")
        classes = len(self.names)
        for start in range(0, count, batch):
            now = range(start, min(start + batch, count))
            keys = [mx.random.split(mx.random.key(seed + i)) for i in now]
            noise = mx.concatenate([mx.random.normal((1, *self.network.shape), key=key[0]) for key in keys])
            chosen = [classes if labels is None else labels[i] for i in now]
            condition = self.network.encode(*([mx.array(chosen, dtype=mx.int32)] if classes else []))
            null = self.network.encode(*([mx.array([classes], dtype=mx.int32)] if classes else []))
            own = {"key": keys[0][1]} if settings.solver == "sde" else {}
            for state in states(self.velocity, condition, null, noise, settings.steps, settings.solver,
                                settings.guidance, guide_until=settings.guide_until, path=self.path, last=self.last,
                                **own):
                pass
            yield Drawn(self.decoded(state.x), state.nfe)

    def decoded(self, x: mx.array) -> np.ndarray:
        """Pixels as they are; latents through the decoder."""
        if self.decoder is not None:
            x = self.decoder.pictures(x / self.scale)
        return np.array(x.astype(mx.float32))

    def pictures(self, labels: Sequence[int] | None, count: int, seed: int = 0, settings: Settings = Settings(),
                 batch: int = BATCH) -> np.ndarray:
        """uint8 RGBA `[count, S, S, 4]` of `draw`."""
        return np.concatenate([to_rgba(drawn.values) for drawn in self.draw(labels, count, seed, settings, batch)])
