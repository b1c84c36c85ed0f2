"""mlxflow from Python: load a model once, then draw and edit with it. Pictures are PIL images, RGBA, straight
alpha.

Everything is deterministic in the words, the seed, the settings and the weights; a seed that is not given is
random and stands in the picture's `info["made_by"]`, with all else that made it.
"""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling import formats, output
from mlxflow.sampling.desk import Desk
from mlxflow.sampling.pipeline import Pipeline, Request, Settings, digest, requests_for, settings_for, varied
from mlxflow.sampling.ranking import best as best_of
from mlxflow.sampling.ranking import scores
from mlxflow.sampling.recipe import described
from mlxflow.sampling.resize import check_size, resized

Picture = Image.Image | str | Path


class Preview(NamedTuple):
    """How a picture looks after a step: the model's estimate of what it will be.

    index: which picture, from 0; step: steps done; t: the time reached, 0 noise to 1; nfe: evaluations of the
    network so far; image: the estimate, and at t = 1 the picture itself.
    """

    index: int
    step: int
    t: float
    nfe: int
    image: Image.Image


def load(weights: str | Path = "emoji") -> "Model":
    """A model that is ready to draw.

    weights: the name of shipped or added ones (`mlxflow weights list`), a weights folder, a run folder, or a
    .safetensors file. Raises MlxflowError when there are none, or they are damaged.
    """
    return Model(Pipeline.load(weights))


class Model:
    """Draws and edits. One at a time: a model is not for several threads at once.

    Settings, where a method takes them, are those of the command line: steps (1 to 1000), solver ("euler",
    "midpoint", "heun", "rk4", "dopri5", "sde"), guidance (0 to 100; 1 is the plain model), guide_until (0 to
    1: where guidance ends; editing is guided on its whole way) and negative (words to keep away from). What is
    not given is the model's own default. All methods raise MlxflowError for values out of range and for words in
    which there is none that the model knows.
    """

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self._digest = ""

    @property
    def size(self) -> int:
        """Width and height of the pictures that it draws, in pixels."""
        return self.pipeline.model.image_size

    @overload
    def generate(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        size: int | None = None,
        background: str | None = None,
        **settings: Any,
    ) -> Image.Image: ...
    @overload
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        n: int | None = None,
        seed: int | Sequence[int] | None = None,
        best: int | None = None,
        vary: float | None = None,
        size: int | None = None,
        background: str | None = None,
        batch: int = 1,
        **settings: Any,
    ) -> list[Image.Image]: ...

    def generate(
        self,
        prompt,
        *,
        n=None,
        seed=None,
        best=None,
        vary=None,
        size=None,
        background=None,
        batch=1,
        **settings,
    ):
        """Pictures of a prompt, or of each of several.

        One picture for one prompt, and a list as soon as `n`, `best`, several prompts or several seeds ask
        for one (in the order of the prompts, then the seeds).

        n: pictures of each prompt. seed: of the first picture (the next has seed + 1), or a list with one for
        each. best: keep so many of each prompt's n (by default 4 x best), the best first, by the model's own
        judgement. vary: n variations of each picture instead, 0 (the same) to 1 (another one). size: 64, 128,
        256 or 512 pixels. background: a colour instead of transparency; the picture is then RGB. batch: how
        many to draw at once; 1 gives the same bits whatever else is drawn.
        """
        several = (
            not isinstance(prompt, str)
            or n is not None
            or best is not None
            or vary is not None
            or isinstance(seed, Sequence)
        )
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        chosen = self._settings(settings)
        if size is not None:
            check_size(size)
        made = []
        for group in _groups(texts, n, seed, best, vary):
            pixels = [np.zeros(0)] * len(group)
            for frame in self.pipeline.stream(group, chosen, batch=batch):
                if frame.t == 1:
                    pixels[frame.index] = frame.pixels
            order = range(len(group))
            if best is not None:
                order = best_of(np.stack(pixels), best)
            made += [self._picture(group[i], pixels[i], chosen, size, background) for i in order]
        return made if several else made[0]

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        n: int = 1,
        seed: int | Sequence[int] | None = None,
        **settings: Any,
    ) -> Iterator[Preview]:
        """The same pictures while they are drawn: a Preview after each step of each, x1 as the model sees it
        by then.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        chosen, index, step = self._settings(settings), 0, 0
        for group in _groups(texts, n, seed, None, None):
            for frame in self.pipeline.stream(group, chosen):
                step += 1
                yield Preview(
                    index, step, frame.t, frame.nfe, self._picture(group[frame.index], frame.pixels, chosen)
                )
                if frame.t == 1:
                    index, step = index + 1, 0

    def scores(self, pictures: Sequence[Image.Image]) -> list[float]:
        """How good pictures that the model drew of one prompt are beside each other: at most 0, more is better
        (sampling/ranking.py).
        """
        wrong = [picture.size for picture in pictures if picture.size != (self.size, self.size)]
        if wrong:
            raise MlxflowError(
                f"Pictures to be scored are {self.size} x {self.size}, not {wrong[0][0]} x {wrong[0][1]}."
            )
        if not pictures:
            return []
        return scores(np.stack([np.asarray(p.convert("RGBA")) for p in pictures])).tolist()

    def redraw(
        self,
        picture: Picture,
        prompt: str,
        *,
        strength: float = 0.6,
        seed: int | None = None,
        **settings: Any,
    ) -> Image.Image:
        """The picture drawn again by a prompt (image to image). strength: near 0 changes little, 1
        everything.
        """
        desk = self._desk(settings)
        return self._marked(desk, desk.redraw(picture, prompt, strength=strength, seed=_seed(seed)))

    def inpaint(
        self,
        picture: Picture,
        prompt: str,
        *,
        mask: Picture | np.ndarray | None = None,
        box: tuple[int, int, int, int] | None = None,
        strength: float = 1.0,
        rounds: int = 1,
        seed: int | None = None,
        **settings: Any,
    ) -> Image.Image:
        """A part drawn anew; every other pixel is the picture's own, at its own size.

        mask: a picture of the same size, white where to draw, or a bool array `[H, W]`. box: (left, top,
        right, bottom).
        """
        if (mask is None) == (box is None):
            raise MlxflowError("Say which part to draw anew: either mask or box.")
        desk = self._desk(settings)
        where = {"mask": mask} if box is None else {"box": ",".join(map(str, box))}
        return self._marked(
            desk, desk.inpaint(picture, prompt, strength=strength, rounds=rounds, seed=_seed(seed), **where)
        )

    def reword(
        self,
        picture: Picture,
        prompt: str,
        *,
        was: str | None = None,
        keep: float | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Image.Image:
        """The picture's exact noise, found by running the flow backwards under the words `was`, drawn by
        other words.
        """
        desk = self._desk(settings)
        return self._marked(desk, desk.reword(picture, prompt, was=was, keep=keep, seed=seed))

    def morph(
        self, first: Picture, second: Picture, *, frames: int = 12, seed: int | None = None, **settings: Any
    ) -> list[Image.Image]:
        """Pictures from one end to the other; an end is words or a picture."""
        return self._desk(settings).morph(first, second, frames=frames, seed=_seed(seed))

    def save(
        self, picture: Image.Image, path: str | Path, *, metadata: bool = True, force: bool = False
    ) -> Path:
        """Writes a picture as the ending says (.png, .webp, .gif, .apng, .svg), with what made it, whole or
        not at all.

        A file that exists is kept, and the next free number used, unless `force`. Returns the path.
        """
        path = Path(path)
        suffix = formats.suffix_of(path)
        made_by = picture.info.get("made_by") if metadata else None
        content = formats.encode(picture, suffix, made_by, (made_by or {}).get("prompt", ""))
        output.open_folder(path.parent)
        return output.write(output.Name(path.parent, path.stem, suffix=suffix), content, force)

    def _settings(self, settings: dict) -> Settings:
        try:
            return settings_for(self.pipeline.model.config, **settings)
        except TypeError:
            unknown = ", ".join(sorted(set(settings) - {"steps", "solver", "guidance", "guide_until", "negative"}))
            raise MlxflowError(
                f"There is no setting {unknown}: there are steps, solver, guidance, guide_until and negative."
            ) from None

    def _desk(self, settings: dict) -> Desk:
        if "guide_until" in settings:
            raise MlxflowError("Editing is guided on its whole way: leave guide_until out.")
        self._settings({name: value for name, value in settings.items() if name != "solver"})
        return Desk(self.pipeline, **settings)

    def _picture(
        self,
        request: Request,
        pixels: np.ndarray,
        settings: Settings,
        size: int | None = None,
        background: str | None = None,
    ) -> Image.Image:
        image = resized(output.on_background(Image.fromarray(pixels), background), size or self.size)
        self._digest = self._digest or digest(self.pipeline.model.source)
        made = described(request) | settings.described()
        more = {"background": background, "size": size}
        image.info["made_by"] = made | {k: v for k, v in more.items() if v} | {"weights": self._digest}
        return image

    @staticmethod
    def _marked(desk: Desk, image: Image.Image) -> Image.Image:
        image.info["made_by"] = desk.made_by
        return image


def _seed(seed: int | None) -> int:
    return secrets.randbelow(2**32) if seed is None else seed


def _groups(
    texts: list[str], n: int | None, seed: int | Sequence[int] | None, best: int | None, vary: float | None
) -> list[list[Request]]:
    """The requests of each prompt."""
    count = n if n is not None else 4 * best if best else 1
    if isinstance(seed, Sequence):
        if n is not None and vary is None and n != len(seed):
            raise MlxflowError(f"There are {len(seed)} seeds for {n} pictures: leave one of them out.")
        groups = [[request for one in seed for request in requests_for([text], 1, one)] for text in texts]
    else:
        first = _seed(seed)
        groups = [requests_for([text], 1 if vary is not None else count, first) for text in texts]
    if vary is not None:
        groups = [varied(group, vary, count) for group in groups]
    for group in groups:
        if best is not None and not 1 <= best <= len(group):
            raise MlxflowError(
                f"best must be between 1 and the {len(group)} pictures that are drawn, not {best}."
            )
    return groups
