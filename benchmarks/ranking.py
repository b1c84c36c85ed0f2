"""Does `--best` choose better pictures? R@1 of held-out prompts with one picture each, and with the best of several.

    python benchmarks/ranking.py --data emoji/ [--weights emoji] [--skip 200] [--prompts 240] [-n 8] [--steps 8]

For each prompt n candidates (seeds 0 to n - 1) are drawn once and kept in a folder, so that a run that was stopped
goes on. Retrieval is that of `mlxflow eval`: a picture counts if the nearest of all real ones is the right one. Shown
are the mean over the candidates (what a seed gives by chance), the candidate ranked first, the one ranked last, and how
many prompts have a right one among their candidates at all (no ranking can do better); and what the ranking gains over one
picture, prompt by prompt. Intervals hold 95 % of bootstraps over prompts. The ranking was settled on the first 200 held-out
prompts and 80 others, and so these are skipped.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from mlxflow.data.folder import read_folder
from mlxflow.data.images import load_all
from mlxflow.evaluation.drawing import Drawing
from mlxflow.evaluation.questions import questions
from mlxflow.evaluation.retrieval import Gallery, ranks
from mlxflow.sampling.pipeline import Pipeline, settings_for
from mlxflow.sampling.ranking import scores


def interval(values: np.ndarray, draws: int = 4000) -> tuple[float, float]:
    """95 % of the means of samples of the prompts, in per cent."""
    picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    return tuple(100 * np.percentile(values[picks].mean(1), (2.5, 97.5)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="emoji")
    parser.add_argument("--part", choices=("prompts", "names"), default="prompts")
    parser.add_argument("--skip", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--pictures", type=Path, default=Path("runs/ranking"))
    options = parser.parse_args()

    pipeline, folder = Pipeline.load(options.weights), read_folder(options.data)
    asked = questions(folder)
    chosen = getattr(asked, options.part)[options.skip : options.skip + options.prompts]
    settings = settings_for(pipeline.model.config, options.steps, guidance=options.guidance)
    place = {record.file_name: i for i, record in enumerate(asked.gallery)}
    right = [[place[record.file_name] for record in question.right] for question in chosen]
    words = [question.prompt for question in chosen]
    pictures = []
    for seed in range(options.n):
        drawing = Drawing(pipeline, options.pictures, seed)
        pictures.append(drawing.pictures(words, len(words), settings))
        print(f"drew seed {seed + 1} of {options.n}", file=sys.stderr)
    pictures = np.stack(pictures, axis=1)  # [Q, n, S, S, 4]
    gallery = Gallery(load_all(asked.gallery, pipeline.model.image_size))
    rank = np.stack([ranks(gallery.distances(row), [own] * options.n) for row, own in zip(pictures, right)])
    print(f"{len(words)} {options.part} of {Path(pipeline.model.source).parent.name}, {options.n} candidates, "
          f"{options.steps} steps, guidance {settings.guidance:g} to t = {settings.guide_until:g}")

    def placed(fit: np.ndarray) -> np.ndarray:
        """The ranks [Q, n] of the candidates in the order of their scores [Q, n], the best first."""
        return np.take_along_axis(rank, np.argsort(-fit, axis=1, kind="stable"), 1)

    def show(name: str, values: np.ndarray, sign: str = "") -> None:
        low, high = interval(values.astype(float))
        print(f"{name:48}{100 * values.mean():{sign}6.1f} %  ({low:{sign}.1f} to {high:{sign}.1f})")

    ranked = placed(np.stack([scores(row) for row in pictures]))
    for k in (1, 5):
        any_one, first = (rank < k).mean(1), ranked[:, 0] < k
        show(f"R@{k} of one picture (mean of all)", any_one)
        show(f"R@{k} ranked first", first)
        show(f"R@{k} ranked last", ranked[:, -1] < k)
        show(f"R@{k} if chosen by the answer", (rank < k).any(1))
        show(f"R@{k} ranked first, less one picture", first - any_one, "+")
    print("share found, by place: " + "  ".join(f"{100 * value:.0f} %" for value in (ranked < 1).mean(0)))


if __name__ == "__main__":
    main()
