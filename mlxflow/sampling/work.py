"""`generate` as a whole: from what was wished for to files. Checked before the weights are read, then drawn
and written.

A wish that was not made is None: it comes from the picture that is to be repeated (`like`), else it is the
default.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlxflow import weights as stored
from mlxflow.errors import MlxflowError
from mlxflow.sampling import output
from mlxflow.sampling.animation import trajectory_bytes
from mlxflow.sampling.formats import ANIMATED, check_svg, encode, suffix_of
from mlxflow.sampling.pipeline import (
    Pipeline,
    Request,
    Settings,
    check_prompt,
    digest,
    requests_for,
    settings_for,
    varied,
)
from mlxflow.sampling.platforms import encode_for, platform
from mlxflow.sampling.ranking import best as best_of
from mlxflow.sampling.recipe import Recipe, described, parse_seeds, read_recipe
from mlxflow.sampling.resize import check_size, resized


@dataclass(frozen=True)
class Wishes:
    """What was asked for; the fields are the options of `mlxflow generate`."""

    prompts: Sequence[str] = ()
    like: Path | None = None
    n: int | None = None
    seed: str | None = None
    best: int | None = None
    vary: float | None = None
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    guide_until: float | None = None
    negative: str | None = None
    weights: str | None = None
    out: str | None = None
    size: int | None = None
    platform: str | None = None
    background: str | None = None
    grid: bool | None = None
    trajectory: Path | None = None
    metadata: bool = True
    force: bool = False


@dataclass
class Work:
    """What will be drawn, how, and which files it becomes. `groups` are the requests of each prompt and seed
    list; `given` the settings that were asked for, `settings` with the defaults, which `load` makes the
    model's own.
    """

    wishes: Wishes
    given: dict[str, Any]
    settings: Settings
    groups: list[list[Request]]
    keep: int | None
    sheet: bool
    columns: int | None
    captions: bool
    names: list[output.Name]
    movie: output.Name | None
    size: int | None
    platform: str | None
    background: str | None
    weights: str
    notes: list[str] = field(default_factory=list)
    pipeline: Any = None
    digest: str = ""

    @property
    def requests(self) -> list[Request]:
        return [request for group in self.groups for request in group]

    def load(self, note: Callable[[str], None] = lambda text: None) -> None:
        """Reads the weights and encodes the words; note(text) is told what a user should know."""
        self.pipeline = Pipeline.load(self.weights)
        self.digest = digest(self.pipeline.model.source)
        self.settings = settings_for(self.pipeline.model.config, **self.given)
        negative = [self.settings.negative] if self.settings.negative else []
        for text in dict.fromkeys([*(request.prompt for request in self.requests), *negative]):
            self.pipeline.encode(text)
            if self.pipeline.words_beyond(text):
                self.notes.append(
                    f"Only the first {self.pipeline.length} words of '{text[:40]}...' are read."
                )
        for text in self.notes:
            note(text)

    def run(self, step: Callable[[int, int, np.ndarray, float], None], say: Callable[[Path], None]) -> None:
        """Draws and writes. step(picture, steps done, pixels so far, t) after each step; say(path) for each
        file.
        """
        drawn: list[tuple[Request, np.ndarray]] = []
        paths: list[list[np.ndarray]] = []
        before = written = 0
        for group in self.groups:
            pictures, ways = [], []
            for frame in self.pipeline.stream(group, self.settings):
                if frame.index == len(ways):
                    shape = frame.pixels.shape
                    ways.append([np.array(group[frame.index].noise(shape))[0]] if self.movie else [])
                    done = 0
                done += 1
                if self.movie:
                    ways[-1].append(frame.x)
                step(before + frame.index, done, frame.pixels, frame.t)
                if frame.t == 1:
                    pictures.append(frame.pixels)
                    if self.keep is None and not self.sheet:
                        say(self._write_one(self.names[written], group[frame.index], frame.pixels))
                        written += 1
            chosen = range(len(group))
            if self.keep is not None:
                chosen = best_of(np.stack(pictures), self.keep)
                for i in chosen if not self.sheet else ():
                    say(self._write_one(self.names[written], group[i], pictures[i]))
                    written += 1
            drawn += [(group[i], pictures[i]) for i in chosen]
            paths += [ways[i] for i in chosen] if self.movie else []
            before += len(group)
        if self.sheet:
            say(self._write_sheet(drawn))
        if self.movie:
            say(self._write_movie(drawn, paths))

    def _made_by(self, requests: list[Request]) -> dict | None:
        """The metadata of a file, or None for none."""
        if not self.wishes.metadata:
            return None
        made = (
            described(requests[0]) if len(requests) == 1 else {"pictures": [described(r) for r in requests]}
        )
        made |= self.settings.described()
        more = {
            "background": self.background,
            "size": self.size,
            "for": self.platform,
        }
        return made | {name: value for name, value in more.items() if value} | {"weights": self.digest}

    def _write_one(self, name: output.Name, request: Request, pixels: np.ndarray) -> Path:
        image = output.on_background(Image.fromarray(pixels), self.background)
        made_by = self._made_by([request])
        if self.platform:
            content = encode_for(image, self.platform, name.suffix, made_by, request.prompt)
        else:
            content = encode(
                resized(image, self.size or image.width), name.suffix, made_by, request.prompt, trace=image
            )
        return output.write(name, content, self.wishes.force)

    def _write_sheet(self, drawn: list[tuple[Request, np.ndarray]]) -> Path:
        requests = [request for request, _ in drawn]
        texts = [request.prompt for request in requests]
        images = [
            np.asarray(resized(Image.fromarray(pixels), self.size or len(pixels))) for _, pixels in drawn
        ]
        columns = self._columns(len(drawn))
        sheet = output.grid(np.stack(images), columns, texts if self.captions else None, self.background)
        made_by = self._made_by(requests)
        if made_by is not None:
            made_by = {
                "pictures": [described(r) for r in requests],
                "columns": columns,
                "captions": self.captions,
            } | {
                key: value
                for key, value in made_by.items()
                if key not in ("pictures", "prompt", "seed", "variations")
            }
        content = encode(sheet, self.names[0].suffix, made_by, ", ".join(dict.fromkeys(texts)))
        return output.write(self.names[0], content, self.wishes.force)

    def _write_movie(self, drawn: list[tuple[Request, np.ndarray]], paths: list[list[np.ndarray]]) -> Path:
        requests = [request for request, _ in drawn]
        made_by = self._made_by(requests)
        content = trajectory_bytes(
            paths,
            self.movie.suffix,
            self._columns(len(drawn)),
            None if made_by is None else made_by | {"trajectory": True},
            ", ".join(dict.fromkeys(request.prompt for request in requests)),
            size=self.size,
            background=self.background,
        )
        return output.write(self.movie, content, self.wishes.force)

    def _columns(self, count: int) -> int:
        """A row for each prompt while that fits, else as square as it gets."""
        kept = self.keep or (len(self.groups[0]) if self.groups else 1)
        rows = len(self.groups) > 1 and 1 < kept <= 12
        return self.columns or (kept if rows else output.columns_for(count))


def work_for(wishes: Wishes) -> Work:
    """Everything that can be checked without the weights is checked here. Raises MlxflowError; makes the
    folders.
    """
    import secrets

    like = read_recipe(wishes.like) if wishes.like else None
    given = _settings(wishes, like)
    settings = Settings(**given)
    notes: list[str] = []
    again = (
        like is not None
        and not wishes.prompts
        and wishes.seed is None
        and wishes.best is None
        and (wishes.n is None or wishes.vary is not None)
    )
    count = wishes.n if wishes.n is not None else 4 * wishes.best if wishes.best else 1
    if again:
        requests = like.requests
        groups = [requests] if wishes.vary is None else [[request] for request in requests]
    else:
        texts = list(wishes.prompts) or list(dict.fromkeys(request.prompt for request in like.requests))
        per = 1 if wishes.vary is not None else count
        if wishes.seed is not None:
            seeds = parse_seeds(wishes.seed)
        elif like is not None:
            seeds = list(dict.fromkeys(request.seed for request in like.requests))
        else:
            seeds = [secrets.randbelow(2**32)]
            last = seeds[0] + per - 1
            notes.append(f"seed {seeds[0]}" + (f" to {last}" if per > 1 else ""))
        if len(seeds) == 1:
            groups = [requests_for([text], per, seeds[0]) for text in texts]
        else:
            if wishes.n not in (None, len(seeds)) and wishes.vary is None:
                raise MlxflowError(
                    f"There are {len(seeds)} seeds for -n {wishes.n} pictures: leave one of them out."
                )
            for text in texts:
                check_prompt(text)
            groups = [[Request(text, seed) for seed in seeds] for text in texts]
    if wishes.vary is not None:
        groups = [varied(group, wishes.vary, count) for group in groups]
    keep = wishes.best
    if keep is not None and not 1 <= keep <= min(map(len, groups)):
        raise MlxflowError(
            f"--best must be between 1 and the {min(map(len, groups))} pictures that are drawn, not {keep}."
        )
    sheet = wishes.grid if wishes.grid is not None else again and like.sheet and wishes.vary is None
    columns, captions = _layout(again, like, wishes, groups)
    size, target, background = _looks(wishes, like, sheet)
    names, movie = _files(wishes, like, groups, keep, sheet, target)
    return Work(
        wishes,
        given,
        settings,
        groups,
        keep,
        sheet,
        columns,
        captions,
        names,
        movie,
        size,
        target,
        background,
        _weights(wishes, like, notes),
        notes,
    )


def _settings(wishes: Wishes, like: Recipe | None) -> dict[str, Any]:
    """The settings that were asked for or that the picture to be repeated has, by name."""
    values = {name: getattr(wishes, name) for name in ("steps", "solver", "guidance", "guide_until", "negative")}
    if like is not None:
        kinds = {"steps": int, "solver": str, "guidance": (int, float), "guide_until": (int, float), "negative": str}
        missing = {"guide_until": 1.0}
        values = {
            name: value if value is not None else like.get(name, kinds[name], missing.get(name))
            for name, value in values.items()
        }
    return {name: value for name, value in values.items() if value is not None}


def _layout(
    again: bool, like: Recipe | None, wishes: Wishes, groups: list[list[Request]]
) -> tuple[int | None, bool]:
    """Columns of a sheet (None: to be chosen) and whether it has captions."""
    if again and like.sheet and wishes.vary is None:
        return like.columns, bool(like.made.get("captions"))
    return None, len({request.prompt for group in groups for request in group}) > 1


def _looks(wishes: Wishes, like: Recipe | None, sheet: bool) -> tuple[int | None, str | None, str | None]:
    """Size, platform and background. A size that is asked for wins over a platform that is only repeated."""
    size, wanted, background = wishes.size, wishes.platform, wishes.background
    if like is not None:
        wanted = wanted if wanted is not None or size is not None or sheet else like.get("for", str)
        size = size if size is not None or wanted is not None else like.get("size", int)
        background = background if background is not None else like.get("background", str)
    if wanted is not None:
        platform(wanted)
        if size is not None:
            raise MlxflowError(f"--for {wanted} sets the size: leave --size out.")
        if sheet:
            raise MlxflowError("A sheet of pictures is no emoji: leave --for out, or --grid.")
    if size is not None:
        check_size(size)
    if background is not None:
        output.colour(background)
    return size, wanted, background


def _files(
    wishes: Wishes,
    like: Recipe | None,
    groups: list[list[Request]],
    keep: int | None,
    sheet: bool,
    target: str | None,
) -> tuple[list[output.Name], output.Name | None]:
    """The names of the pictures' files and of the animation's."""
    if sheet:
        stems = [f"{output.slug(groups[0][0].prompt)}-grid"]
    elif keep is not None:
        stems = [output.slug(group[0].prompt) for group in groups for _ in range(keep)]
    else:
        stems = [output.slug(request.prompt) for group in groups for request in group]
    takes = list(platform(target).most) if target else None
    usual = like.suffix if like is not None and wishes.platform is None else takes[0] if takes else ".png"
    names = output.names(wishes.out, stems, usual)
    if takes and names[0].suffix not in takes:
        raise MlxflowError(
            f"{target} takes {', '.join(s[1:].upper() for s in takes)}: '{names[0].path.name}' should end "
            f"in {' or '.join(takes)}."
        )
    if names[0].suffix == ".svg":
        if sheet:
            raise MlxflowError("A sheet is not traced as SVG: write it as .png or .webp.")
        check_svg()
    output.open_folder(names[0].folder)
    movie = None
    if wishes.trajectory is not None:
        suffix_of(wishes.trajectory, ANIMATED)
        movie = output.names(str(wishes.trajectory), [""])[0]
        output.open_folder(movie.folder)
    return names, movie


def _weights(wishes: Wishes, like: Recipe | None, notes: list[str]) -> str:
    """The weights to draw with: as wished, else those that drew the picture that is to be repeated, else
    "emoji".
    """
    wanted = like.get("weights", str) if like is not None else None
    if wishes.weights is not None:
        if wanted and digest(stored.resolve(wishes.weights)) != wanted:
            notes.append(f"{wishes.like} was drawn by other weights than {wishes.weights}.")
        return wishes.weights
    if wanted is None:
        return "emoji"
    for name in stored.names():
        if digest(stored.resolve(name)) == wanted:
            return name
    raise MlxflowError(
        f"{wishes.like} was drawn by weights that are not here (SHA-256 {wanted[:12]}...): say where they "
        f"are, or which to take instead, with --weights (here are {', '.join(stored.names())})."
    )
