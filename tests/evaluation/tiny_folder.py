"""A data folder of some of the embedded emoji, small, with their captions, splits and likenesses."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow.data.cldr import load_emoji
from mlxflow.data.emoji import embedded_tiles, metadata_row
from mlxflow.data.images import fit

# Four people with all five tones, two things, and the families that Noto draws alike.
PERSONS = ("1F9D1-200D-1F680", "1F9D1-200D-1F373")
TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
THINGS = ("1F34E", "1F431", "1F697", "1F415", "1F600", "1F355")
ALIKE = ("1F468-200D-1F468-200D-1F466", "1F46A")


def make_folder(root: Path, size: int = 16) -> Path:
    """Cooks and astronauts in each tone (one of them in the holdout), things, and two emoji that share a picture."""
    root.mkdir()
    table = load_emoji()
    toned = [code.replace("1F9D1", f"1F9D1-{tone}", 1) for code in PERSONS for tone in TONES]
    wanted = {*PERSONS, *toned, *THINGS, ALIKE[0]}
    with open(root / "metadata.jsonl", "w", encoding="utf-8") as file:
        for code, pixels in embedded_tiles():
            if code not in wanted:
                continue
            split = "holdout" if code == toned[2] else "val" if code == toned[8] else "train"
            alike = [table[other] for other in ALIKE[1:]] if code == ALIKE[0] else []
            file.write(json.dumps(metadata_row(table[code], "noto", split, alike)) + "\n")
            Image.fromarray(fit(Image.fromarray(np.ascontiguousarray(pixels)), size)).save(root / f"{code}.png")
    return root
