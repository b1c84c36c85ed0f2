"""A run small enough to train in a test: 24 pictures of 16x16 and a network of some thousand parameters."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

UNET = {"image_size": 16, "widths": [8, 8, 16], "blocks": [1, 1, 1], "attention": [0, 0, 1], "heads_dim": 8,
        "embedding": 16, "text_width": 16, "pixel_width": 2}
TEXT = {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "length": 6}
MODEL = {"kind": "text-unet", "text": TEXT, "unet": UNET}
SETTINGS = {"model": MODEL, "batch": 8, "warmup": 2, "log_every": 1, "sample_every": 1000, "validate_every": 1000,
            "checkpoint_every": 3, "prompts": ["red circle", "cat"]}
COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255)}


def pictures(folder: Path, count: int = 24, size: int = 16) -> Path:
    """Coloured squares on transparent ground, with captions, the last two for validation."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = []
    for i in range(count):
        name, colour = list(COLOURS.items())[i % 3]
        image = np.zeros((size, size, 4), np.uint8)
        x, y = generator.integers(0, size // 2, size=2)
        image[y:y + size // 2, x:x + size // 2] = (*colour, 255)
        Image.fromarray(image).save(folder / f"{i:03d}.png")
        lines.append({"file_name": f"{i:03d}.png", "text": f"{name} square", "texts": [f"a {name} box"],
                      "split": "val" if i >= count - 2 else "train"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
