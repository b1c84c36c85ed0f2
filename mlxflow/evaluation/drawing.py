"""Pictures for evaluation: drawn in batches, kept in a folder, so that a run that was stopped goes on.

A picture's file is named by a hash of what it follows from: weights, prompt, seed and settings. Matrix products may
round by a bit with what else is in a batch: so batches are cut from the whole list of prompts, however many of them
are wanted now, and a batch of which a picture is missing is drawn again as a whole. The pictures then do not
depend on limits and interruptions.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow import runtime
from mlxflow.errors import MlxflowError
from mlxflow.sampling.output import open_folder
from mlxflow.sampling.pipeline import Pipeline, Request, Settings, digest

# With guidance the network sees twice as many. Larger batches leave a CPU's caches and are slower a picture.
BATCH = {"cpu": 8, "metal": 32, "cuda": 64}


class Drawing:
    """Draws prompts with one model; the pictures stay in `folder`."""

    def __init__(self, pipeline: Pipeline, folder: Path, seed: int = 0):
        open_folder(folder)
        self.pipeline, self.folder, self.seed = pipeline, folder, seed
        self.weights = digest(pipeline.model.source)
        self.batch = BATCH[runtime.device()]

    def file(self, prompt: str, settings: Settings) -> Path:
        """Where the prompt's picture is, or will be."""
        facts = [self.weights, prompt, self.seed, settings.steps, settings.solver, settings.guidance,
                 settings.guide_until]
        return self.folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.png"

    def pictures(self, prompts: Sequence[str], count: int, settings: Settings,
                 progress: Callable[[float], None] = lambda done: None) -> np.ndarray:
        """Those of the first `count` prompts: uint8 `[N, S, S, 4]`, straight alpha. progress(share that is done).

        Raises MlxflowError for a prompt without a word that the model knows, or a folder that cannot be written.
        """
        prompts, count = list(prompts), min(count, len(prompts))
        batches = [prompts[start : start + self.batch] for start in range(0, count, self.batch)]
        for done, batch in enumerate(batches):
            progress(done / len(batches))
            if not all(self.file(prompt, settings).is_file() for prompt in batch):
                self._draw(batch, settings, lambda t, done=done: progress((done + t) / len(batches)))
        progress(1.0)
        size = self.pipeline.model.image_size
        made = [_read(self.file(prompt, settings)) for prompt in prompts[:count]]
        return np.stack(made) if made else np.zeros((0, size, size, 4), np.uint8)

    def _draw(self, prompts: list[str], settings: Settings, progress: Callable[[float], None]) -> None:
        # The last batch is filled up: one shape for all.
        filled = (prompts * self.batch)[: self.batch]
        drawn = {}
        for frame in self.pipeline.stream([Request(prompt, self.seed) for prompt in filled], settings,
                                          batch=self.batch):
            progress(frame.t)
            if frame.t == 1 and frame.index < len(prompts):
                drawn[prompts[frame.index]] = frame.pixels
        for prompt, pixels in drawn.items():
            self._write(self.file(prompt, settings), pixels)

    def _write(self, file: Path, pixels: np.ndarray) -> None:
        partial = self.folder / f".{secrets.token_hex(8)}.partial"
        try:
            Image.fromarray(pixels).save(partial, "PNG")
            os.replace(partial, file)
        except OSError as error:
            raise MlxflowError(f"{file} could not be written: {error.strerror}.") from None
        finally:
            partial.unlink(missing_ok=True)


def _read(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGBA"))
    except OSError:
        raise MlxflowError(f"{file} is broken: remove it, and run the command again.") from None
