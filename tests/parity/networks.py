"""A small network of every kind, and of every form that a kind has: what the suite compares with its twin."""

SIZES = {"image_size": 16, "channels": 4}
UNET = {"patch": 2, "widths": [12, 16, 24], "blocks": [1, 2, 1], "attention": [0, 1, 1], "heads_dim": 8, "embedding": 20,
        "text_width": 16, "pixel_width": 3, **SIZES}
TEXT = {"word_dim": 6, "width": 16, "layers": 2, "heads": 2, "hidden": 24, "length": 7}
PATCHES = {"patch": 4, "width": 24, "depth": 2, "classes": 3, **SIZES}

CONFIGS = {
    "text-unet": {"kind": "text-unet", "text": TEXT, "unet": UNET},
    "sketch": {"kind": "text-unet", "text": TEXT | {"sketch": 5, "sketch_shape": [8, 8, 4]}, "unet": UNET | {"sketch": True}},
    "collage": {"kind": "text-unet", "text": TEXT | {"sketch": 5, "sketch_shape": [8, 8, 4], "collage": True},
                "unet": UNET | {"sketch": True}},
    "few-step": {"kind": "text-unet", "text": TEXT, "unet": UNET | {"few_step": True}},
    "unet": {"kind": "unet", "classes": 3, **UNET},
    "unet-plain": {"kind": "unet", **UNET, "pixel_width": 0},
    "dit": {"kind": "dit", "heads": 3, **PATCHES},
    "dit-few-step": {"kind": "dit", "heads": 3, **PATCHES, "depth": 1, "classes": 0, "few_step": True},
    "mamba": {"kind": "mamba", "heads": 3, "state": 4, "chunk": 5, **PATCHES},
    "mamba-one": {"kind": "mamba", "heads": 3, "state": 4, "chunk": 16, "directions": 1, "mlp_ratio": 0.0,
                  **PATCHES, "classes": 0},
    "kl-vae": {"kind": "kl-vae", "image_size": 16, "channels": 3, "latent": 3, "widths": [8, 16, 16], "layers": 1, "groups": 4},
    "vq-vae": {"kind": "vq-vae", "image_size": 16, "channels": 3, "latent": 3, "widths": [8, 16], "groups": 4, "codes": 12},
}
