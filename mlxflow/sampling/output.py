"""Pictures to files: backgrounds, grids, names that never overwrite, whole files only (formats.py has the bytes)."""

import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mlxflow.data.words import plain
from mlxflow.errors import MlxflowError
from mlxflow.sampling.formats import encode, suffix_of

GAP = 8
CAPTION_SIZE = 11
# Readable on white and on black, since a transparent grid lies on whatever is behind it.
CAPTION_COLOUR = (128, 128, 128, 255)


def colour(name: str) -> tuple[int, int, int]:
    """A colour's name or #rrggbb as red, green, blue."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise MlxflowError(f"'{name}' is no colour: give a name such as white, or #rrggbb.") from None


def on_background(image: Image.Image, background: str | None) -> Image.Image:
    """RGBA as it is for None, else composited over the colour, as RGB."""
    if background is None:
        return image
    canvas = Image.new("RGBA", image.size, colour(background) + (255,))
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def columns_for(count: int) -> int:
    """Columns that fill a grid of `count` best, at least as wide as high and at most about thrice as wide."""
    least = next(c for c in range(1, count + 1) if c * c >= count)
    return min(range(least, min(3 * least // 2, count) + 1), key=lambda c: (-count % c, c))


def wrap(text: str, width: int, font, lines: int = 2) -> list[str]:
    """The text in at most `lines` lines that fit into `width` pixels, cut with an ellipsis."""
    made: list[str] = []
    for word in text.split():
        longer = f"{made[-1]} {word}" if made else word
        if made and font.getlength(longer) <= width:
            made[-1] = longer
        else:
            made.append(word)
    if len(made) > lines:
        made = made[: lines - 1] + [" ".join(made[lines - 1 :])]
    for i, line in enumerate(made):
        while len(line) > 1 and font.getlength(line) > width:
            line = line.rstrip("\u2026")[:-1].rstrip() + "\u2026"
        made[i] = line
    return made


def grid(images: np.ndarray, columns: int, captions: Sequence[str] | None = None,
         background: str | None = None) -> Image.Image:
    """One picture of many: uint8 `[N, S, S, 4]`, straight alpha, in rows of `columns`, a caption under each.

    RGBA on transparent ground for background None, else RGB on that colour.
    """
    count, size = images.shape[:2]
    columns = max(1, min(columns, count))
    font = ImageFont.load_default(CAPTION_SIZE)
    texts = [wrap(caption, size + GAP - 2, font) for caption in captions] if captions else []
    line = CAPTION_SIZE + 2
    below = line * max(map(len, texts), default=0)
    rows = -(-count // columns)
    sheet = Image.new("RGBA", (GAP + columns * (size + GAP), GAP + rows * (size + below + GAP)))
    draw = ImageDraw.Draw(sheet)
    for i in range(count):
        left = GAP + i % columns * (size + GAP)
        top = GAP + i // columns * (size + below + GAP)
        sheet.paste(Image.fromarray(images[i]), (left, top))
        for j, text in enumerate(texts[i] if texts else []):
            centred = left + (size - font.getlength(text)) / 2
            draw.text((centred, top + size + j * line), text, font=font, fill=CAPTION_COLOUR)
    return on_background(sheet, background)


def png_bytes(image: Image.Image, made_by: dict, description: str) -> bytes:
    """A PNG file that says what made it (see formats.py, which also writes other kinds)."""
    return encode(image, ".png", made_by, description)


def slug(prompt: str) -> str:
    """A file name from a prompt: its letters and digits in any script, joined by dashes; emoji by their name."""
    words = re.findall(r"\w+", plain(prompt).replace("'", "").replace("_", " "))
    name = "-".join(words)[:60].strip("-")
    while len(name.encode()) > 200:
        name = name[:-1]
    return name or "picture"


class Name(NamedTuple):
    """A file to write: folder/base.png, or folder/base-number.png, or another suffix."""

    folder: Path
    base: str
    number: int | None = None
    suffix: str = ".png"

    @property
    def path(self) -> Path:
        number = "" if self.number is None else f"-{self.number}"
        return self.folder / f"{self.base}{number}{self.suffix}"

    @property
    def next(self) -> "Name":
        return self._replace(number=(self.number or 1) + 1)


def names(out: str | None, stems: Sequence[str], suffix: str = ".png") -> list[Name]:
    """Different names for as many pictures as there are stems.

    out: None is the current folder and the stems; a folder (it exists, or ends in a slash) keeps the stems; a file
    name replaces them, and its ending says the format. A stem that several pictures share gets numbers from 1.
    suffix: where `out` has none.
    """
    if out is None or out.endswith(("/", os.sep)) or Path(out).is_dir():
        folder = Path(out or ".")
    else:
        path = Path(out)
        suffix = suffix_of(path) if path.suffix else suffix
        folder, stems = path.parent, [path.stem] * len(stems)
    counts = Counter(stems)
    made: dict[Path, Name] = {}
    for stem in stems:
        name = Name(folder, stem, 1 if counts[stem] > 1 else None, suffix)
        while name.path in made:
            name = name.next
        made[name.path] = name
    return list(made.values())


def open_folder(folder: Path) -> None:
    """Makes the folder if it is missing; raises MlxflowError when nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MlxflowError(f"Nothing can be written in the folder {folder}: {error.strerror}.") from None


def write(name: Name, content: bytes, force: bool = False) -> Path:
    """Writes the file whole or not at all, and returns its path.

    Without `force` a file that is there is not touched: the next free number is used, as in smiling-cat-2.png.
    """
    partial = name.folder / f".{secrets.token_hex(8)}.partial"
    reserved = None
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not force:
            name = reserved = _reserve(name)
        os.replace(partial, name.path)
        reserved = None
    except OSError as error:
        raise MlxflowError(f"{name.path} could not be written: {error.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)
        if reserved:
            reserved.path.unlink(missing_ok=True)
    return name.path


def _reserve(name: Name) -> Name:
    """The first free name, taken by an empty file so that no other process gets it too."""
    while True:
        try:
            name.path.open("x").close()
            return name
        except FileExistsError:
            name = name.next
