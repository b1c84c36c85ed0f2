"""Twenty made-up pictures to fine-tune on: five shapes that are no emoji, each in four moods.

    python apps/mine/draw_pictures.py my_emoji/

Drawn at four times the size and averaged down; the captions are the file names, as in `happy_purple_hexagon.png`.
"""

import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, TIMES = 64, 4
SHAPES = {"purple_hexagon": (6, 30, (150, 80, 220)), "teal_triangle": (3, -90, (0, 160, 160)),
          "pink_pentagon": (5, -90, (240, 110, 170)), "lime_square": (4, 45, (140, 200, 40)),
          "navy_octagon": (8, 22.5, (40, 60, 130))}
MOODS = ("happy", "sad", "sleepy", "surprised")


def polygon(sides: int, turn: float, radius: float, middle: tuple[float, float]) -> list[tuple[float, float]]:
    """Corners of a regular polygon."""
    angles = [math.radians(turn + 360 * i / sides) for i in range(sides)]
    return [(middle[0] + radius * math.cos(a), middle[1] + radius * math.sin(a)) for a in angles]


def draw(shape: str, mood: str) -> Image.Image:
    """A picture of 64x64 on transparent ground."""
    sides, turn, colour = SHAPES[shape]
    side = SIZE * TIMES
    image = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(image)
    middle = (side / 2, side * (0.58 if sides == 3 else 0.5))
    dark = tuple(v * 6 // 10 for v in colour)
    pen.polygon(polygon(sides, turn, side * 0.47, middle), fill=(*dark, 255))
    pen.polygon(polygon(sides, turn, side * 0.42, middle), fill=(*colour, 255))
    line = side // 24
    for x in (middle[0] - side * 0.13, middle[0] + side * 0.13):
        y = middle[1] - side * 0.06
        if mood == "sleepy":
            pen.arc((x - side * 0.06, y - side * 0.04, x + side * 0.06, y + side * 0.06), 10, 170, fill="white", width=line)
        else:
            r = side * (0.075 if mood == "surprised" else 0.055)
            pen.ellipse((x - r, y - r, x + r, y + r), fill="white")
            pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill="black")
    x, y, w = middle[0], middle[1] + side * 0.14, side * 0.13
    if mood == "happy":
        pen.chord((x - w, y - w, x + w, y + w * 0.8), 10, 170, fill="white")
    elif mood == "sad":
        pen.arc((x - w, y, x + w, y + w), 200, 340, fill="white", width=line)
    elif mood == "sleepy":
        pen.line((x - w / 2, y + w / 3, x + w / 2, y + w / 3), fill="white", width=line)
    else:
        pen.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill="white")
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for shape in SHAPES:
        for mood in MOODS:
            draw(shape, mood).save(folder / f"{mood}_{shape}.png")
    print(f"{len(SHAPES) * len(MOODS)} pictures in {folder}")


if __name__ == "__main__":
    main()
