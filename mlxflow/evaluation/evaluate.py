"""All parts of `mlxflow eval` on one model and one data folder: the numbers, and the pictures behind them.

The result is one dictionary, ready for JSON, without times or dates: the same weights, data and settings give the
same numbers on one machine. Shares are in per cent with their 95 % interval, errors are of values in [-1, 1].
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlxflow.data.folder import Record, read_folder
from mlxflow.data.images import load_all, premultiply
from mlxflow.errors import MlxflowError
from mlxflow.evaluation import distances as copies
from mlxflow.evaluation.compositions import composed
from mlxflow.evaluation.drawing import Drawing
from mlxflow.evaluation.questions import Question, questions, variants
from mlxflow.evaluation.retrieval import Gallery, ranks, recall, share
from mlxflow.sampling.pipeline import Pipeline, Settings

PARTS = ("names", "prompts", "combinations", "compositions", "novel", "validation")
SWEEP_STEPS, SWEEP_GUIDANCE = (4, 8, 16, 32), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


@dataclass
class Shown:
    """A part's pictures: what was asked, what was drawn, the nearest real picture, and the rank of the right one."""

    questions: list[Question]
    pictures: np.ndarray
    found: list[Record]
    rank: np.ndarray | None = None
    distance: np.ndarray | None = None

    def answers(self) -> list[dict]:
        """A line for each question."""
        return [{"key": question.key, "prompt": question.prompt, "found": self.found[i].file_name}
                | ({} if self.rank is None else {"rank": int(self.rank[i])})
                | ({} if self.distance is None else {"distance": round(float(self.distance[i]), 4)})
                for i, question in enumerate(self.questions)]


class Evaluation:
    """`part` gives a part's numbers and keeps its pictures in `shown`. progress(what, share that is done).

    Raises MlxflowError for a limit below 1 or a folder without training pictures.
    """

    def __init__(self, pipeline: Pipeline, data: Path, pictures: Path, settings: Settings = Settings(), *,
                 seed: int = 0, limit: int | None = None,
                 progress: Callable[[str, float], None] = lambda what, done: None):
        if limit is not None and limit < 1:
            raise MlxflowError(f"--limit must be 1 or more, not {limit}.")
        self.pipeline, self.settings, self.limit, self.progress = pipeline, settings, limit, progress
        self.folder = read_folder(data)
        self.asked = questions(self.folder)
        if not self.asked.gallery:
            raise MlxflowError(f"{data} has no pictures in its split 'train' to compare with.")
        self.pixels = load_all(self.asked.gallery, pipeline.model.image_size)
        self.gallery = Gallery(self.pixels)
        self.drawing = Drawing(pipeline, pictures, seed)
        self.shown: dict[str, Shown] = {}

    def identity(self) -> dict:
        """What the numbers follow from."""
        data = hashlib.sha256(self.pixels.tobytes())
        for question in (*self.asked.names, *self.asked.prompts, *self.asked.combinations, *self.asked.novel):
            data.update(f"{question.key}\n{question.prompt}\n".encode())
        return {
            "format": 1,
            "weights": {"sha256": self.drawing.weights, "trained": self.pipeline.model.config.get("trained")},
            "data": {"gallery": len(self.asked.gallery), "sha256": data.hexdigest()},
            "settings": {**self.settings.described(), "seed": self.drawing.seed, "limit": self.limit},
        }

    def part(self, name: str) -> dict | None:
        """The numbers of one of PARTS; None if the folder asks nothing of the kind."""
        return {"names": self.names, "prompts": self.prompts, "combinations": self.combinations,
                "compositions": self.compositions, "novel": self.novel, "validation": self.validation}[name]()

    def names(self) -> dict | None:
        """R@1 and R@5 among all real pictures, for all and by group."""
        return self._retrieval("names")

    def prompts(self) -> dict | None:
        """As `names`, for wording that was held out from training."""
        return self._retrieval("prompts")

    def combinations(self, settings: Settings | None = None) -> dict | None:
        """R@1 among all variants of the base, beside what chance would score; the mean squared error against the
        real picture, beside that of the training variant nearest to it, and how often the drawn one is nearer."""
        asked = self.asked.combinations[: self.limit]
        if not asked:
            return None
        drawn = self._draw("combinations", settings)
        bases = [variants(self.folder, question.right[0]) for question in asked]
        records = list({record.file_name: record for base in bases for record in base}.values())
        place = {record.file_name: i for i, record in enumerate(records)}
        pixels = load_all(records, self.pipeline.model.image_size)
        distances = Gallery(pixels).distances(drawn)
        real, values = premultiply(pixels), premultiply(drawn)
        rank, found, errors = [], [], []
        for row, question, base, value in zip(distances, asked, bases, values):
            own, among = place[question.right[0].file_name], [place[record.file_name] for record in base]
            rank.append(ranks(row[None, among], [[among.index(own)]])[0])
            found.append(records[min(among, key=lambda i: row[i])])
            trained = [place[record.file_name] for record in base if record.split == "train"]
            nearest = min((np.square(real[i] - real[own]).mean() for i in trained), default=np.inf)
            errors.append((np.square(value - real[own]).mean(), nearest))
        if settings is None:
            self.shown["combinations"] = Shown(asked, drawn, found, np.array(rank))
        mse, other = np.array(errors).T
        return recall(np.array(rank), at=(1,)) | {
            "chance": round(100 * float(np.mean([1 / len(base) for base in bases])), 1),
            "mse": round(float(mse.mean()), 5),
            "mse_of_nearest_training_variant": round(float(other.mean()), 5),
            "nearer_than_training_variant": share(int((mse < other).sum()), len(asked)),
        }

    def compositions(self) -> dict | None:
        """R@1 and R@5 of compositions that training never shows, among all of them and all real pictures, for all and by
        kind (compositions.py)."""
        folder, size = self.drawing.folder / "compositions", self.pipeline.model.image_size
        asked = composed(self._trained(), size, folder)
        asked, gallery = asked[: self.limit], [question.right[0] for question in asked] + self.asked.gallery
        if not asked:
            return None
        drawn = self.drawing.pictures([question.prompt for question in asked], len(asked), self.settings,
                                      lambda done: self.progress("compositions", done))
        distances = Gallery(load_all(gallery, size)).distances(drawn)
        rank = ranks(distances, [[i] for i in range(len(asked))])
        self.shown["compositions"] = Shown(asked, drawn, [gallery[i] for i in distances.argmin(1)], rank)
        return _by_group(asked, rank)

    def novel(self) -> dict:
        """Whether pictures of things that do not exist are training pictures again (distances.py)."""
        asked = self.asked.novel[: self.limit]
        drawn = self._draw("novel")
        trained = self._trained()
        near = copies.nearest(Gallery(load_all(trained, self.pipeline.model.image_size)).distances(drawn))
        self.shown["novel"] = Shown(asked, drawn, [trained[i] for i in near.index], distance=near.distance)
        return {"n": len(asked), "copies": int(near.copies.sum()), "copy_below": copies.COPY,
                "median_distance": round(float(np.median(near.distance)), 4),
                "prompts": [{"prompt": question.prompt, "distance": round(float(d), 4), "ratio": round(float(r), 3),
                             "nearest": trained[i].text} for question, d, i, r in zip(asked, *near)]}

    def validation(self) -> dict:
        """Validation loss and its excess over the floor (excess.py); settings do not matter to it."""
        from mlxflow.evaluation.excess import excess

        style = self.asked.gallery[0].style
        records = [record for record in self.folder.records if record.style == style]
        return excess(self.pipeline, records, self.limit, lambda done: self.progress("validation", done))

    def sweep(self) -> list[dict]:
        """Names, prompts and combinations for SWEEP_STEPS at this guidance and SWEEP_GUIDANCE at these steps."""
        wanted = [replace(self.settings, steps=steps) for steps in SWEEP_STEPS]
        wanted += [replace(self.settings, guidance=guidance) for guidance in SWEEP_GUIDANCE]
        rows = []
        for settings in dict.fromkeys(wanted):
            row = {"steps": settings.steps, "guidance": settings.guidance}
            for part in ("names", "prompts"):
                if found := self._retrieval(part, settings):
                    row[part] = {key: found[key] for key in ("n", "R@1", "R@5")}
            if found := self.combinations(settings):
                row["combinations"] = {key: found[key] for key in ("n", "R@1", "mse")}
            rows.append(row)
        return rows

    def _retrieval(self, part: str, settings: Settings | None = None) -> dict | None:
        asked = getattr(self.asked, part)[: self.limit]
        if not asked:
            return None
        drawn = self._draw(part, settings)
        distances = self.gallery.distances(drawn)
        place = {record.file_name: i for i, record in enumerate(self.asked.gallery)}
        rank = ranks(distances, [[place[record.file_name] for record in question.right] for question in asked])
        if settings is None:
            found = [self.asked.gallery[i] for i in distances.argmin(1)]
            self.shown[part] = Shown(asked, drawn, found, rank)
        return _by_group(asked, rank)

    def _trained(self) -> list[Record]:
        """The training pictures of the gallery's style."""
        return [record for record in self.folder.split("train") if record.style == self.asked.gallery[0].style]

    def _draw(self, part: str, settings: Settings | None = None) -> np.ndarray:
        """The pictures of a part, with the settings of a sweep or else the evaluation's own."""
        prompts = [question.prompt for question in getattr(self.asked, part)]
        what = part if settings is None else f"{part}, {settings.steps} steps, guidance {settings.guidance:g}"
        return self.drawing.pictures(prompts, self.limit or len(prompts), settings or self.settings,
                                     lambda done: self.progress(what, done))


def _by_group(asked: list[Question], rank: np.ndarray) -> dict:
    """R@1 and R@5 of all questions, and of each group of them."""
    of = np.array([question.group for question in asked])
    groups = {group: recall(rank[of == group]) for group in sorted(set(of.tolist())) if group}
    return recall(rank) | ({"groups": groups} if groups else {})
