"""Does `--best` choose better pictures? R@1 of held-out prompts with one picture each, and with the best of
several.

    python benchmarks/ranking.py --data emoji/ [--weights emoji] [--prompts 60] [-n 8]

For each prompt n candidates (seeds 0 to n - 1) are drawn once and kept in a folder, so that a run that was
stopped goes on. Retrieval is that of `mlxflow eval`: a picture counts if the nearest of all real ones is the
right one. Shown are the mean over the candidates (what chance of the seed gives), the candidate ranked first,
the one ranked last, and how many prompts have a right one among their candidates at all (no ranking can do
better); intervals are bootstrapped over prompts.
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
from mlxflow.sampling.pipeline import Pipeline, Settings
from mlxflow.sampling.ranking import TIMES, scores


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % of the means of samples of the prompts, in per cent."""
    picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    return tuple(100 * np.percentile(values[picks].mean(1), (2.5, 97.5)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="emoji")
    parser.add_argument("--part", choices=("prompts", "names"), default="prompts")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--guidance", type=float, default=Settings.guidance)
    parser.add_argument("--times", default="", help="times of the ranking, with commas [default: the package's]")
    parser.add_argument("--pictures", type=Path, default=Path("benchmarks/ranking-pictures"))
    options = parser.parse_args()

    times = tuple(map(float, options.times.split(","))) if options.times else TIMES
    pipeline, folder = Pipeline.load(options.weights), read_folder(options.data)
    asked = questions(folder)
    chosen = getattr(asked, options.part)[: options.prompts]
    settings = Settings(steps=options.steps, guidance=options.guidance)
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
    fit = np.stack([scores(pipeline, word, row, times) for word, row in zip(words, pictures)])
    order = np.argsort(-fit, axis=1, kind="stable")
    by_fit = np.take_along_axis(rank, order, 1)
    print(f"{options.part}, {len(words)} of them, {options.steps} steps, guidance {options.guidance:g}, ranked at "
          f"{', '.join(f'{t:g}' for t in times)}")
    for k in (1, 5, 50):
        found = by_fit < k  # [Q, n], the best first
        rows = {"one picture (mean of all)": found.mean(1), f"best of {options.n}": found[:, 0],
                f"worst of {options.n}": found[:, -1], "a right one is among them": found.any(1),
                "best less one picture": found[:, 0] - found.mean(1)}
        for name, values in rows.items():
            low, high = interval(values.astype(float))
            print(f"{name:28} R@{k:<3} {100 * values.mean():5.1f} %  ({low:.1f} to {high:.1f})")
    print("mean place of the right picture, by rank: " + "  ".join(f"{value:.0f}" for value in by_fit.mean(0)))


if __name__ == "__main__":
    main()
