"""Editing as a whole: picture files and words in, picture files out. `mlxflow edit` and the Python interface
use it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow.data.images import SUFFIXES, unpremultiply
from mlxflow.errors import MlxflowError
from mlxflow.sampling import edit, metadata, output
from mlxflow.sampling.animation import HOLD, STEP
from mlxflow.sampling.canvas import Canvas, open_picture
from mlxflow.sampling.edit import Report, _quiet
from mlxflow.sampling.formats import ANIMATED, encode, encode_frames, suffix_of
from mlxflow.sampling.pipeline import (
    SHORTCUT,
    Pipeline,
    Request,
    Settings,
    check_prompt,
    digest,
    settings_for,
)
from mlxflow.sampling.resize import check_size, resized


class Desk:
    """A model that is ready to edit. Options that are None are the defaults of `generate`.

    picture arguments: a file's path or a PIL image. Results are PIL images, RGBA.
    """

    def __init__(
        self,
        weights: str | Path | Pipeline | None = None,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | None = None,
        negative: str = "",
        note: Callable[[str], None] = lambda text: None,
    ):
        Settings(
            **{
                name: value
                for name, value in (("steps", steps), ("solver", solver), ("guidance", guidance))
                if value is not None
            },
            negative=negative,
        )
        self.guided = guidance is not None
        self.pipeline = weights if isinstance(weights, Pipeline) else Pipeline.load(weights or "emoji")
        # Editing follows the flow step by step: a few-step model does so too, but not by its jumps.
        if solver == SHORTCUT:
            raise MlxflowError(
                "Editing follows the flow, which the solver 'shortcut' jumps over: choose another solver."
            )
        self.settings = settings_for(
            self.pipeline.model.config,
            Settings.steps if steps is None else steps,
            solver or Settings.solver,
            guidance,
            negative,
            guide_until=1.0,  # an edit may begin beyond where the guidance of a new picture ends
        )
        self.note = note
        self.made_by: dict = {}

    def redraw(
        self, picture, words: str, *, strength: float = 0.6, seed: int = 0, report: Report = _quiet
    ) -> Image.Image:
        """Image to image; see `edit.redraw`. The result has the model's size."""
        canvas = self._canvas(picture)
        self._words(words)
        values = edit.redraw(
            self.pipeline,
            canvas.values,
            words,
            strength=strength,
            seed=seed,
            settings=self.settings,
            report=report,
        )
        self._say("redraw", words, strength=strength, seed=seed)
        return canvas.picture(values)

    def inpaint(
        self,
        picture,
        words: str,
        *,
        mask=None,
        box: str | None = None,
        strength: float = 1.0,
        rounds: int = 1,
        seed: int = 0,
        report: Report = _quiet,
    ) -> Image.Image:
        """A part drawn anew; the result has the picture's size, and outside of the mask its pixels.

        mask: a picture of the same size, or a bool array `[H, W]`; box: "left,top,right,bottom".
        """
        canvas = self._canvas(picture)
        self._words(words)
        if box is not None:
            chosen = canvas.box(box)
        elif isinstance(mask, np.ndarray):
            if mask.shape != canvas.original.size[::-1]:
                raise MlxflowError(
                    f"The mask is {list(mask.shape)}, and the picture {list(canvas.original.size[::-1])}."
                )
            chosen = mask.astype(bool)
        else:
            chosen = canvas.mask(mask if isinstance(mask, Image.Image) else open_picture(mask))
        values = edit.redraw(
            self.pipeline,
            canvas.values,
            words,
            strength=strength,
            mask=canvas.small(chosen),
            rounds=rounds,
            seed=seed,
            settings=self.settings,
            report=report,
        )
        self._say("inpaint", words, strength=strength, seed=seed, rounds=rounds)
        return canvas.picture(values, chosen)

    def reword(
        self,
        picture,
        words: str,
        *,
        was: str | None = None,
        keep: float | None = None,
        seed: int = 0,
        report: Report = _quiet,
    ) -> Image.Image:
        """Inversion, then other words; see `edit.invert`. was: what the picture shows (None: what its
        metadata say).
        """
        canvas, was = self._canvas(picture), self._shows(picture) if was is None else was
        self._words(words)
        if was:
            self._words(was)
        if keep is None:
            keep = 1.0 if was == words else 0.0
        if not 0 <= keep <= 1:
            raise MlxflowError(f"The share of detail to keep must be between 0 and 1, not {keep:g}.")
        settings = replace(self.settings, guidance=self.settings.guidance if self.guided else 1.0)
        found = edit.invert(
            self.pipeline, canvas.values, was, seed=seed, settings=replace(settings, guidance=1.0)
        )
        values = edit.render(self.pipeline, found, words, keep=keep, settings=settings, report=report)
        self._say("reword", words, settings, was=was, keep=keep, seed=seed)
        return canvas.picture(values)

    def restyle(self, picture, style: str, *, was: str | None = None, report: Report = _quiet) -> Image.Image:
        """`reword` to the same words in another style. Raises MlxflowError when the weights do not know
        it.
        """
        styles = self.pipeline.model.config.get("styles", [])
        if not styles:
            raise MlxflowError(
                f"{self.pipeline.model.source} knows one style only: to change styles, train on a folder "
                "whose metadata name several."
            )
        if style not in styles:
            raise MlxflowError(f"There is no style '{style}' in these weights: choose {', '.join(styles)}.")
        was = self._shows(picture) if was is None else was
        made = self.reword(
            picture, f"{was}, {style} style" if was else f"{style} style", was=was, report=report
        )
        self.made_by |= {"edit": "restyle", "style": style}
        return made

    def morph(
        self,
        first,
        second,
        *,
        frames: int = 12,
        seed: int = 0,
        report: Callable[[int, np.ndarray], None] = lambda i, pixels: None,
    ) -> list[Image.Image]:
        """Pictures from one end to the other; an end is words, or a picture."""
        ends = [
            end if isinstance(end, (Image.Image, Path)) or not _is_file(end) else Path(end)
            for end in (first, second)
        ]
        pictures = any(not isinstance(end, str) for end in ends)
        settings = self.settings if self.guided or not pictures else replace(self.settings, guidance=1.0)
        made_ends, size = [], self.pipeline.model.image_size
        for end in ends:
            if isinstance(end, str):
                self._words(end)
                made_ends.append(edit.End(Request(end, seed).noise((size, size, 4)), end))
            else:
                was, values = self._shows(end), self._canvas(end).values
                found = edit.invert(
                    self.pipeline, values, was, seed=seed, settings=replace(settings, guidance=1.0)
                )
                residual = found.residual
                if settings.guidance != 1:
                    residual = values - edit.render(
                        self.pipeline, replace(found, residual=np.zeros_like(values)), was, settings=settings
                    )
                made_ends.append(edit.End(found.noise, was, residual))
        made = []
        for i, values in enumerate(edit.morph(self.pipeline, *made_ends, frames, settings)):
            pixels = unpremultiply(np.clip(values, -1, 1))
            report(i, pixels)
            made.append(Image.fromarray(pixels))
        words = [end.prompt or "a picture" for end in made_ends]
        self._say("morph", " to ".join(words), settings, seed=seed, frames=frames)
        return made

    def write(
        self,
        image: Image.Image,
        words: str,
        out: str | None,
        size: int | None,
        with_metadata: bool,
        force: bool,
    ) -> Path:
        """The file of a result: its name is that of the words unless `out` says another."""
        name = output.names(out, [output.slug(words)])[0]
        if size is not None:
            check_size(size)
        output.open_folder(name.folder)
        larger = resized(image, size) if size is not None else image
        content = encode(larger, name.suffix, self.made_by if with_metadata else None, words, trace=image)
        return output.write(name, content, force)

    def write_movie(
        self,
        frames: list[Image.Image],
        out: str,
        size: int | None,
        background: str | None,
        with_metadata: bool,
        force: bool,
    ) -> Path:
        """The frames there and back, both ends held for 1.5 s."""
        suffix_of(out, ANIMATED)
        name = output.names(out, [""])[0]
        output.open_folder(name.folder)
        shown = [output.on_background(resized(f, size or f.width), background) for f in frames]
        times = [HOLD, *[STEP] * (len(shown) - 2), HOLD, *[STEP] * (len(shown) - 2)]
        content = encode_frames(
            [*shown, *shown[-2:0:-1]],
            times,
            name.suffix,
            self.made_by if with_metadata else None,
            self.made_by.get("prompt", ""),
        )
        return output.write(name, content, force)

    def _canvas(self, picture) -> Canvas:
        image = picture if isinstance(picture, Image.Image) else open_picture(picture)
        return Canvas.of(image, self.pipeline.model.image_size)

    def _shows(self, picture) -> str:
        """The prompt in a picture's metadata; "" if it says none that the model can read."""
        made = picture.info.get("made_by") if isinstance(picture, Image.Image) else metadata.read(picture)
        prompt = made.get("prompt") if isinstance(made, dict) else None
        try:
            self.pipeline.encode(prompt if isinstance(prompt, str) else "")
        except MlxflowError:
            return ""
        return prompt

    def _words(self, words: str) -> None:
        check_prompt(words)
        self.pipeline.encode(words)
        if self.pipeline.words_beyond(words):
            self.note(f"Only the first {self.pipeline.length} words of '{words[:40]}...' are read.")

    def _say(self, what: str, words: str, settings: Settings | None = None, **more) -> None:
        s = settings or self.settings
        self.made_by = {
            "edit": what,
            "prompt": words,
            **more,
            **s.described(),
            "weights": digest(self.pipeline.model.source),
        }


def _is_file(text: str) -> bool:
    """Whether one end of a morph means a picture file."""
    path = Path(text)
    if path.suffix.lower() not in (*SUFFIXES, ".apng"):
        return False
    if not path.is_file():
        raise MlxflowError(f"{text}: there is no such picture.")
    return True
