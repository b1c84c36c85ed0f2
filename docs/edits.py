"""Takes the picture of `mlxflow edit` that README shows: python docs/edits.py (docs/page.py takes all).

A drawn cat; a part of it anew; its noise by other words; drawn again from a state half noise; and one picture
becoming another. Seed 0 throughout.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import mlxflow

HERE = Path(__file__).parent
SIZE, GAP, LINE = 128, 14, 22
BOX = (10, 18, 54, 34)
# Medium grey is read on light and on dark, as README may be shown.
INK = (128, 128, 128)


def main(more: list[str]) -> None:
    """more: options of the command line, of which --weights is heard."""
    weights = more[more.index("--weights") + 1] if "--weights" in more else "emoji"
    model = mlxflow.load(weights)
    cat = model.generate("smiling cat", seed=7)
    marked = cat.copy()
    ImageDraw.Draw(marked).rectangle((BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1), outline=INK)
    morph = model.morph("full moon", "sun with face", frames=4, seed=0)
    made = [(marked, "cat.png"), (model.inpaint(cat, "cat with heart eyes", box=BOX, seed=0), "inpaint"),
            (model.reword(cat, "panda"), "reword"), (model.redraw(cat, "fox", strength=0.7, seed=0), "redraw"),
            *((picture, "morph" if i == 0 else "") for i, picture in enumerate(morph))]
    sheet = Image.new("RGBA", (len(made) * (SIZE + GAP) - GAP, SIZE + LINE))
    pen = ImageDraw.Draw(sheet)
    try:
        font = ImageFont.truetype("DejaVuSans.ttf", 14)
    except OSError:
        font = ImageFont.load_default(14)
    for i, (picture, name) in enumerate(made):
        left = i * (SIZE + GAP)
        sheet.paste(picture.resize((SIZE, SIZE), Image.Resampling.NEAREST), (left, 0))
        pen.text((left + SIZE // 2, SIZE + LINE // 2), name, font=font, fill=INK, anchor="mm")
    sheet.save(HERE / "edits.png", optimize=True)
    print(HERE / "edits.png", f"{(HERE / 'edits.png').stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
