"""Pictures for evaluation: drawn in batches of one size, kept in a folder, so that a run that was stopped goes on.

A picture's file is named by a hash of all that it follows from: weights, prompt, seed and settings. Short batches are
filled up, so that the network always sees one shape: it is compiled once, and what else is drawn does not matter.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.output import open_folder
from mlxflow.sampling.pipeline import Pipeline, Request, Settings, digest

BATCH = 16
# Compiling costs about 20 s of g++ on the CPU and saves a fifth of the time after that.
WORTH_COMPILING = 100


class Drawing:
    """Draws prompts with one model; the pictures stay in `folder`."""

    def __init__(self, pipeline: Pipeline, folder: Path, seed: int = 0, batch: int = BATCH):
        open_folder(folder)
        self.pipeline, self.folder, self.seed, self.batch = pipeline, folder, seed, batch
        self.weights = digest(pipeline.model.source)

    def file(self, prompt: str, settings: Settings) -> Path:
        """Where the prompt's picture is, or will be."""
        facts = [self.weights, prompt, self.seed, settings.steps, settings.solver, settings.guidance]
        return self.folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.png"

    def pictures(self, prompts: Sequence[str], settings: Settings,
                 progress: Callable[[float], None] = lambda done: None) -> np.ndarray:
        """uint8 `[N, S, S, 4]`, straight alpha; progress(number done). Raises MlxflowError for a prompt without
        words."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if not self.file(prompt, settings).is_file()]
        if len(missing) > WORTH_COMPILING:
            self.compile()
        had = len(prompts) - len(missing)
        for start in range(0, len(missing), self.batch):
            now = missing[start : start + self.batch]
            padded = [Request(prompt, self.seed) for prompt in now] + [Request(now[0], self.seed)] * (
                self.batch - len(now))
            for frame in self.pipeline.stream(padded, settings, batch=self.batch):
                if frame.t == 1 and frame.index < len(now):
                    self._write(self.file(now[frame.index], settings), frame.pixels)
                if frame.index == 0:
                    progress(had + start + frame.t * len(now))
        progress(len(prompts))
        size = self.pipeline.model.image_size
        made = [self._read(self.file(prompt, settings)) for prompt in prompts]
        return np.stack(made) if made else np.zeros((0, size, size, 4), np.uint8)

    def compile(self) -> None:
        """Fuse the network's operations from now on."""
        self.pipeline.velocity = self.pipeline.model.velocity(compiled=True)

    def _write(self, file: Path, pixels: np.ndarray) -> None:
        partial = self.folder / f".{secrets.token_hex(8)}.partial"
        try:
            Image.fromarray(pixels).save(partial, "PNG")
            os.replace(partial, file)
        except OSError as error:
            raise MlxflowError(f"{file} could not be written: {error.strerror}.") from None
        finally:
            partial.unlink(missing_ok=True)

    @staticmethod
    def _read(file: Path) -> np.ndarray:
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGBA"))
        except OSError:
            raise MlxflowError(f"{file} is broken: remove it, and run the command again.") from None
