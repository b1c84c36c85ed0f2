"""A contact sheet: the pictures of a data folder in a grid, each with its caption."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlxflow.data.folder import Record
from mlxflow.data.images import load_all
from mlxflow.errors import MlxflowError
from mlxflow.sampling.output import wrap

PICTURE, GAP = 128, 16
CAPTION_SIZE, CAPTION_LINES = 13, 3
INK, PAPER = (60, 60, 67), (255, 255, 255)
# The squares behind a picture, so that white on transparent can be seen.
LIGHT, DARK, SQUARE = 250, 238, 8
# A word in colour over pictures that are not for training.
MARKS = {"val": (0, 122, 204), "holdout": (200, 80, 0)}


def contact_sheet(
    records: Sequence[Record], columns: int = 10, progress: Callable[[int, int], None] | None = None
) -> Image.Image:
    """An RGB sheet of all `records`, `columns` a row; pictures outside "train" carry the name of their split.

    Raises MlxflowError for no records, no columns, or a picture that cannot be read.
    """
    if not records:
        raise MlxflowError("There are no pictures to show.")
    if columns < 1:
        raise MlxflowError(f"A sheet needs at least one column, not {columns}.")
    columns = min(columns, len(records))
    pictures = load_all(records, PICTURE, progress)
    font = ImageFont.load_default(CAPTION_SIZE)
    captions = [wrap(record.text, PICTURE + 6, font, CAPTION_LINES) for record in records]
    line = CAPTION_SIZE + 3
    # Each row is as high as its longest caption needs.
    rows = range(0, len(records), columns)
    heights = [PICTURE + 6 + line * max(map(len, captions[i : i + columns])) + GAP for i in rows]
    sheet = Image.new("RGB", (GAP + columns * (PICTURE + GAP), GAP + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, record in enumerate(records):
        left = GAP + i % columns * (PICTURE + GAP)
        top = GAP + sum(heights[: i // columns])
        sheet.paste(_card(pictures[i]), (left, top), _rounded())
        if record.split in MARKS:
            _mark(draw, record.split, left, top)
        for j, text in enumerate(captions[i]):
            x = left + (PICTURE - font.getlength(text)) / 2
            draw.text((x, top + PICTURE + 6 + j * line), text, font=font, fill=INK)
    return sheet


def spread(records: Sequence[Record], limit: int) -> list[Record]:
    """At most `limit` records, spread evenly from the first to the last: a fair sample of a sorted folder."""
    if limit < 1:
        raise MlxflowError(f"--limit must be 1 or more, not {limit}.")
    if len(records) <= limit:
        return list(records)
    return [records[i] for i in np.linspace(0, len(records) - 1, limit).astype(int)]


def _card(pixels: np.ndarray) -> Image.Image:
    y, x = np.indices((PICTURE, PICTURE)) // SQUARE
    board = np.where((y + x) % 2, DARK, LIGHT).astype(np.uint8)
    card = Image.fromarray(board).convert("RGBA")
    card.alpha_composite(Image.fromarray(pixels))
    return card.convert("RGB")


def _rounded() -> Image.Image:
    """The mask of a card with round corners, drawn four times as large for smooth edges."""
    mask = Image.new("L", (4 * PICTURE, 4 * PICTURE))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * PICTURE - 1, 4 * PICTURE - 1), radius=48, fill=255)
    return mask.resize((PICTURE, PICTURE), Image.Resampling.BOX)


def _mark(draw: ImageDraw.ImageDraw, split: str, left: int, top: int) -> None:
    font = ImageFont.load_default(CAPTION_SIZE - 2)
    width = font.getlength(split) + 10
    top -= 9  # mostly in the gap above, to hide little
    box = (left + PICTURE - width, top, left + PICTURE, top + CAPTION_SIZE + 3)
    draw.rounded_rectangle(box, radius=5, fill=MARKS[split])
    draw.text((box[0] + 5, top + 1), split, font=font, fill=PAPER)
