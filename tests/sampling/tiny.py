"""A weights folder with a network of some thousand random parameters and the shipped word table."""

from functools import cache
from pathlib import Path

from mlx.utils import tree_flatten

from mlxflow import weights
from mlxflow.data.words import WordTable
from mlxflow.networks import build
from mlxflow.paths import weights_dir
from mlxflow.runtime import mx

WORDS = weights_dir() / "emoji" / weights.WORDS
UNET = {"image_size": 16, "widths": [8, 8, 16], "blocks": [1, 1, 1], "attention": [0, 1, 1], "heads_dim": 8,
        "embedding": 16, "text_width": 16, "pixel_width": 2}
TEXT = {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "length": 6}


@cache
def word_table() -> WordTable:
    return WordTable.load(WORDS)


def config() -> dict:
    words = word_table()
    return {"format": 1, "model": {"kind": "text-unet", "text": {**TEXT, "word_dim": words.dim}, "unet": UNET},
            "process": {"path": "condot", "prediction": "data", "floor": 0.05}, "words": words.sha256,
            "trained": {"steps": 0, "images": 0}}


def arrays(seed: int = 0) -> dict[str, mx.array]:
    """Random parameters, also where a new network has zeros, so that time and words matter."""
    shapes = {name: a.shape for name, a in tree_flatten(build(config()["model"]).parameters())}
    keys = mx.random.split(mx.random.key(seed), len(shapes))
    return {name: 0.25 * mx.random.normal(shape, key=key) for (name, shape), key in zip(shapes.items(), keys)}


def weights_folder(folder: Path, seed: int = 0) -> Path:
    weights.save(folder, arrays(seed), config(), WORDS)
    return folder
