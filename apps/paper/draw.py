"""Pictures of two-dimensional flows with Pillow: trajectories, clouds of points, densities, and a frame
around them.

A panel is drawn SCALE times as large and reduced, for smooth lines. It shows [-limit, limit]^2, y upwards:
WIDE where noise is to be seen, NEAR where only data are.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL, SCALE, WIDE, NEAR = 180, 3, 2.2, 1.25
GAP, TITLE, MARGIN = 6, 20, 92
INK, NOISE, DATA, PAPER = (60, 60, 67), (150, 160, 175), (214, 69, 48), (255, 255, 255)
# A density from nothing to its most: white, yellow, orange, violet, near black.
HEAT = np.array([(255, 255, 255), (252, 230, 150), (245, 140, 60), (170, 40, 100), (40, 10, 60)], float)


def pixels(points: np.ndarray, limit: float) -> np.ndarray:
    """Places `[..., 2]` of points in a panel that is not reduced yet."""
    return (np.asarray(points) * (1, -1) / limit + 1) * PANEL * SCALE / 2


def blank() -> Image.Image:
    return Image.new("RGB", (PANEL * SCALE, PANEL * SCALE), PAPER)


def reduced(image: Image.Image) -> Image.Image:
    return image.resize((PANEL, PANEL), Image.Resampling.LANCZOS)


def trajectories(paths: np.ndarray) -> Image.Image:
    """Lines from noise (grey) to data (red): paths `[states, n, 2]`."""
    image = blank()
    draw = ImageDraw.Draw(image)
    places = pixels(paths, WIDE)
    for i in range(places.shape[1]):
        draw.line([tuple(p) for p in places[:, i]], fill=(120, 150, 210), width=SCALE, joint="curve")
    for states, colour, radius in ((places[0], NOISE, 2), (places[-1], DATA, 2)):
        for x, y in states:
            draw.ellipse(
                (x - radius * SCALE, y - radius * SCALE, x + radius * SCALE, y + radius * SCALE), fill=colour
            )
    return reduced(image)


def course(paths: np.ndarray) -> Image.Image:
    """The first coordinate of paths `[states, n, 2]` upwards over time, from left to right."""
    image = blank()
    draw = ImageDraw.Draw(image)
    across = np.linspace(0, PANEL * SCALE, len(paths))
    up = pixels(np.stack([np.zeros_like(paths[..., 0]), paths[..., 0]], -1), WIDE)[..., 1]
    for i in range(paths.shape[1]):
        draw.line(list(zip(across, up[:, i])), fill=(120, 150, 210), width=SCALE, joint="curve")
    return reduced(image)


def cloud(points: np.ndarray) -> Image.Image:
    """A dot for each point `[n, 2]`."""
    image = blank()
    draw = ImageDraw.Draw(image)
    for x, y in pixels(points, NEAR):
        draw.ellipse((x - SCALE, y - SCALE, x + SCALE, y + SCALE), fill=INK)
    return reduced(image)


def heat(log_density: np.ndarray, most: float) -> Image.Image:
    """A density `[n, n]` (rows from high y to low, columns from low x to high), `most` being the darkest."""
    share = np.clip(np.exp(np.asarray(log_density, float) - math.log(most)), 0, 1) * (len(HEAT) - 1)
    low = np.minimum(share.astype(int), len(HEAT) - 2)
    rgb = HEAT[low] + (share - low)[..., None] * (HEAT[low + 1] - HEAT[low])
    return Image.fromarray(rgb.round().astype(np.uint8)).resize((PANEL, PANEL), Image.Resampling.BILINEAR)


def lattice(n: int) -> np.ndarray:
    """The points `[n * n, 2]` at which `heat` wants the density: centres of the cells of the panel."""
    x = (2 * (np.arange(n) + 0.5) / n - 1) * NEAR
    return np.stack([np.tile(x, n), np.repeat(x[::-1], n)], axis=1).astype(np.float32)


def framed(rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str]) -> Image.Image:
    """Panels in rows with a name at the left of each row and above each column."""
    font = ImageFont.load_default(13)
    width = MARGIN + len(columns) * (PANEL + GAP)
    sheet = Image.new("RGB", (width, TITLE + len(rows) * (PANEL + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        draw.text((MARGIN + j * (PANEL + GAP) + PANEL / 2, 2), name, font=font, fill=INK, anchor="ma")
    for i, (name, panels) in enumerate(rows):
        top = TITLE + i * (PANEL + GAP)
        draw.multiline_text((4, top + PANEL / 2), name, font=font, fill=INK, anchor="lm")
        for j, panel in enumerate(panels):
            left = MARGIN + j * (PANEL + GAP)
            sheet.paste(panel, (left, top))
            draw.rectangle((left - 1, top - 1, left + PANEL, top + PANEL), outline=(225, 225, 230))
    return sheet


def small(image: Image.Image, colours: int = 128) -> Image.Image:
    """With a palette: a third of the bytes."""
    return image.quantize(colours, dither=Image.Dither.NONE)
