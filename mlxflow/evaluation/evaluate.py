"""`mlxflow eval`: all parts of the measure put together into one dictionary of numbers and the pictures behind it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mlxflow.data.folder import Folder, Record, read_folder
from mlxflow.data.images import load_all, premultiply
from mlxflow.errors import MlxflowError
from mlxflow.evaluation.drawing import Drawing
from mlxflow.evaluation.questions import Question, limited, questions, variants
from mlxflow.evaluation.retrieval import Gallery, ranks, recall, share
from mlxflow.sampling.pipeline import Pipeline, Settings

PARTS = ("names", "prompts", "combinations", "novel", "validation")
# progress(part, done from 0 to 1)
Progress = Callable[[str, float], None]


@dataclass
class Shown:
    """A part's pictures for the page: what was asked, what was drawn, and what it was found to be."""

    questions: list[Question]
    pictures: np.ndarray
    found: list[Record]
    """The nearest real picture of each."""
    rank: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


class Evaluation:
    """One model on one data folder. Each part gives its numbers and keeps its pictures in `shown`."""

    def __init__(self, pipeline: Pipeline, data: Path, out: Path, settings: Settings = Settings(), *, seed: int = 0,
                 limit: int | None = None, progress: Progress = lambda part, done: None):
        if limit is not None and limit < 1:
            raise MlxflowError(f"--limit must be 1 or more, not {limit}.")
        self.pipeline, self.settings, self.seed, self.limit = pipeline, settings, seed, limit
        self.progress = progress
        self.folder: Folder = read_folder(data)
        self.asked = questions(self.folder)
        if not self.asked.gallery:
            raise MlxflowError(f"{data} has no pictures to compare with in its split 'train'.")
        size = pipeline.model.image_size
        self.pixels = load_all(self.asked.gallery, size)
        self.gallery = Gallery(self.pixels)
        self.place = {record.file_name: i for i, record in enumerate(self.asked.gallery)}
        self.drawing = Drawing(pipeline, out / "pictures", seed)
        self.shown: dict[str, Shown] = {}

    def identity(self) -> dict:
        """What the numbers follow from: the same identity gives the same numbers on one machine."""
        digest = hashlib.sha256(self.pixels.tobytes())
        for question in (*self.asked.names, *self.asked.prompts, *self.asked.combinations, *self.asked.novel):
            digest.update(f"{question.key}\n{question.prompt}\n".encode())
        config = self.pipeline.model.config
        return {
            "weights": {"sha256": self.drawing.weights, "trained": config.get("trained")},
            "data": {"gallery": len(self.asked.gallery), "sha256": digest.hexdigest()},
            "settings": {**{k: v for k, v in asdict(self.settings).items() if k != "negative"}, "seed": self.seed,
                         "limit": self.limit},
        }

    def part(self, name: str) -> dict:
        """The numbers of one of PARTS."""
        return getattr(self, name)()

    def names(self) -> dict:
        return self._retrieval("names", self.asked.names)

    def prompts(self) -> dict:
        return self._retrieval("prompts", self.asked.prompts)

    def recall_with(self, part: str, settings: Settings) -> dict:
        """The recall of "names" or "prompts" with other settings, for a sweep."""
        asked = limited(getattr(self.asked, part), self.limit)
        label = f"{part}, {settings.steps} steps, guidance {settings.guidance:g}"
        rank, _ = self._ranks(asked, self._draw(label, asked, settings))
        return recall(rank)

    def _retrieval(self, part: str, everything: Sequence[Question]) -> dict:
        asked = limited(everything, self.limit)
        if not asked:
            return {"n": 0}
        pictures = self._draw(part, asked, self.settings)
        rank, nearest = self._ranks(asked, pictures)
        self.shown[part] = Shown(asked, pictures, [self.asked.gallery[i] for i in nearest], rank)
        groups = sorted({question.group for question in asked})
        of = np.array([question.group for question in asked])
        return recall(rank) | {"groups": {g: recall(rank[of == g]) for g in groups if g}}

    def _draw(self, label: str, asked: Sequence[Question], settings: Settings) -> np.ndarray:
        return self.drawing.pictures([question.prompt for question in asked], settings,
                                     lambda done: self.progress(label, done / len(asked)))

    def _ranks(self, asked: Sequence[Question], pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rank of the right picture, and the number of the nearest one, of each question."""
        distances = self.gallery.distances(pictures)
        right = [self.place[question.record.file_name] for question in asked]
        return ranks(distances, right), distances.argmin(1)
