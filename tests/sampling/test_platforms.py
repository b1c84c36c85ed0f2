import io

import numpy as np
import pytest
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.platforms import PLATFORMS, encode_for

EVERY = [(name, suffix) for name, wanted in PLATFORMS.items() for suffix in wanted.most]
GENERATOR = np.random.default_rng(0)


def picture(kind):
    """A smooth one, and one that cannot be compressed."""
    if kind == "noise":
        return Image.fromarray(GENERATOR.integers(0, 256, (128, 128, 4), np.uint8))
    y, x = np.mgrid[:64, :64]
    return Image.fromarray(np.stack([4 * x, 4 * y, 0 * x, 255 * (x > 8)], -1).astype(np.uint8))


@pytest.mark.parametrize("name, suffix", EVERY)
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_size_and_weight_are_kept_whatever_the_picture_is(name, suffix, kind):
    wanted = PLATFORMS[name]
    content = encode_for(picture(kind), name, suffix, {"prompt": "x"}, "x")
    assert len(content) <= wanted.most[suffix]
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (wanted.size, wanted.size) and f".{image.format.lower()}" == suffix


def test_a_light_picture_loses_nothing():
    image = Image.fromarray(np.asarray(picture("smooth").resize((128, 128))))
    with Image.open(io.BytesIO(encode_for(image, "slack"))) as made:
        assert made.format == "PNG" and (np.asarray(made) == np.asarray(image)).all()


def test_a_sticker_has_a_margin_and_the_whole_picture_within_it():
    image = Image.new("RGBA", (64, 64), (200, 10, 10, 255))
    with Image.open(io.BytesIO(encode_for(image, "sticker"))) as made:
        alpha = np.asarray(made.convert("RGBA"))[..., 3]
    assert alpha.shape == (512, 512) and (alpha[16:-16, 16:-16] == 255).all()
    alpha = alpha.copy()
    alpha[16:-16, 16:-16] = 0
    assert not alpha.any()
    opaque = Image.new("RGB", (64, 64), (200, 10, 10))
    with Image.open(io.BytesIO(encode_for(opaque, "sticker", ".png"))) as made:
        assert made.size == (512, 512) and np.asarray(made.convert("RGB")).min(2).min() > 5


def test_refusals_are_a_sentence():
    with pytest.raises(MlxflowError, match="There is no 'msn' to make pictures for: choose slack, discord, sticker"):
        encode_for(picture("smooth"), "msn")
    with pytest.raises(MlxflowError, match="slack takes PNG, GIF, not SVG"):
        encode_for(picture("smooth"), "slack", ".svg")
    with pytest.raises(MlxflowError, match="is square, not 64 x 32"):
        encode_for(Image.new("RGBA", (64, 32)), "discord")
    with pytest.raises(MlxflowError, match="cannot be made lighter .* --no-metadata"):
        encode_for(picture("smooth"), "slack", ".png", {"prompts": ["x" * 200_000]}, "x")
