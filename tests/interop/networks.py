"""A small network of every kind that the package has, and layers that none of them uses yet."""

import json

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlxflow.networks import build, describe
from mlxflow.runtime import mx
from tests.sampling.tiny import word_table

SIZES = {"image_size": 8, "channels": 3}
UNET = {"patch": 2, "widths": [8, 16], "blocks": [1, 1], "attention": [0, 1], "heads_dim": 8, "embedding": 16,
        "text_width": 8, "pixel_width": 3, **SIZES}
TEXT = {"word_dim": 4, "width": 8, "layers": 1, "heads": 2, "hidden": 8, "length": 6}
CONFIGS = {
    "text-unet": {"kind": "text-unet", "text": TEXT, "unet": UNET},
    "text-unet with a sketch": {"kind": "text-unet", "text": TEXT | {"sketch": 8, "sketch_shape": [4, 4, 3]},
                                "unet": UNET | {"sketch": True}},
    "text-unet with a collage": {"kind": "text-unet", "text": TEXT | {"sketch": 8, "sketch_shape": [4, 4, 4], "collage": True},
                                 "unet": UNET | {"sketch": True, "channels": 4}},
    "unet": {"kind": "unet", "classes": 3, **UNET},
    "dit": {"kind": "dit", "patch": 2, "width": 16, "depth": 2, "heads": 2, "classes": 3, **SIZES},
    "mamba": {"kind": "mamba", "patch": 2, "width": 16, "depth": 1, "heads": 2, "state": 4, "expand": 1.0, **SIZES},
    "text-unet of few steps": {"kind": "text-unet", "text": TEXT, "unet": UNET | {"few_step": True}},
    "dit of few steps": {"kind": "dit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "few_step": True, **SIZES},
    # As many channels in as out as kernel rows: shapes say nothing here.
    "kl-vae": {"kind": "kl-vae", "latent": 3, "widths": [3, 3, 6], "groups": 3, **SIZES},
    "vq-vae": {"kind": "vq-vae", "latent": 3, "widths": [3, 6], "groups": 3, "codes": 3, **SIZES},
}


class Layers(nn.Module):
    """Every layer of MLX whose kernel torch keeps in another order, square in all axes, and some that it does not."""

    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(3, 3, 3)
        self.plane = [nn.Conv2d(3, 3, 3), nn.Conv2d(6, 6, 3, groups=2)]
        self.space = nn.Conv3d(3, 3, 3)
        self.up_line = nn.ConvTranspose1d(3, 3, 3)
        self.up = {"plane": nn.ConvTranspose2d(3, 3, 3)}
        self.up_space = nn.ConvTranspose3d(3, 3, 3)
        self.matrix = nn.Linear(3, 3)
        self.table = nn.Embedding(3, 3)
        self.kernel = mx.random.normal((3, 3, 3, 3))


def model_config(kind: str) -> dict:
    """The config of weights of that kind."""
    network = build(CONFIGS[kind])
    process = {"path": "condot", "prediction": "velocity", "floor": 0.05} if hasattr(network, "predict") else {}
    if kind.endswith("few steps"):
        process["few_step"] = {"guidance": 3.0}
    config = {"format": 1, "model": describe(network), "process": process}
    if network.kind == "text-unet":
        config["model"]["text"]["word_dim"] = word_table().dim
        config["words"] = word_table().sha256
    elif process and network.config.classes:
        config["classes"] = ["a", "b", "c"]
    return json.loads(json.dumps(config))


def random_arrays(network, seed: int = 0, scale: float = 0.25) -> dict[str, mx.array]:
    """Values for every parameter, also where a new network has zeros or ones."""
    shapes = {name: a.shape for name, a in tree_flatten(network.parameters())}
    keys = mx.random.split(mx.random.key(seed), len(shapes))
    return {name: scale * mx.random.normal(shape, key=key) for (name, shape), key in zip(shapes.items(), keys)}


def bits(array) -> bytes:
    """The memory of an array of MLX, NumPy or torch."""
    array = array if isinstance(array, (np.ndarray, mx.array)) else array.detach().numpy()
    return np.ascontiguousarray(np.array(array)).tobytes()
