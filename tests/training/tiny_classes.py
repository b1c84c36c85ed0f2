"""Runs over classes, nothing, and latents, small enough for a test: 8 x 8 pictures of coloured bars, three classes."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (0, 0, 255), "green": (0, 160, 0), "red": (255, 0, 0)}
SIZES = {"image_size": 8, "channels": 3}
DIT = {"kind": "dit", "patch": 2, "width": 16, "depth": 2, "heads": 2, **SIZES}
MAMBA = {"kind": "mamba", "patch": 2, "width": 16, "depth": 1, "heads": 2, "state": 4, "expand": 1.0, **SIZES}
UNET = {"kind": "unet", "patch": 2, "widths": [8, 16], "blocks": [1, 1], "attention": [0, 1], "heads_dim": 8,
        "embedding": 16, "text_width": 8, "pixel_width": 0, **SIZES}
KL = {"kind": "kl-vae", "latent": 2, "widths": [8, 8], "groups": 4, **SIZES}
VQ = KL | {"kind": "vq-vae", "codes": 8}
LATENT_DIT = DIT | {"image_size": 4, "channels": 2, "patch": 1}
SETTINGS = {"batch": 8, "warmup": 2, "log_every": 1, "sample_every": 1000, "validate_every": 1000,
            "checkpoint_every": 3, "shift": 0, "prediction": "velocity", "times": "uniform"}


def classes(folder: Path, count: int = 60, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    generator = np.random.default_rng(0)
    for i in range(count):
        name = names[i % len(names)]
        image = np.full((8, 8, 3), 255, np.uint8)
        row = generator.integers(0, 7)
        image[row:row + 2] = COLOURS[name]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{i:03d}.png")
    return folder


def unlabelled(folder: Path, count: int = 20) -> Path:
    folder.mkdir(parents=True)
    for i, file in enumerate(sorted(classes(folder.parent / "made", count).rglob("*.png"))):
        file.rename(folder / f"{i}.png")
    return folder
