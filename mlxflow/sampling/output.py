"""Pictures out of arrays: backgrounds and grids."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mlxflow.errors import MlxflowError

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
