"""The emoji model: a text encoder and the U-Net that it conditions, as one module."""

from dataclasses import dataclass

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402

from mlxflow.networks.text import Condition, TextConfig, TextEncoder
from mlxflow.networks.unet import UNet, UNetConfig


@dataclass(frozen=True)
class TextUNetConfig:
    """Sizes of both parts, which must agree on the text's width and on the sketch."""

    text: TextConfig = TextConfig()
    unet: UNetConfig = UNetConfig()


class TextUNet(nn.Module):
    """Prediction `[B, S, S, C]` from x `[B, S, S, C]`, t `[B]` and the words of a prompt.

    `encode` turns word vectors `[B, L, word_dim]` and their mask `[B, L]` into a condition once; a sampler keeps
    it and calls `predict` at every step.
    """

    kind = "text-unet"

    def __init__(self, config: TextUNetConfig):
        super().__init__()
        if config.text.width != config.unet.text_width:
            raise ValueError(f"text width {config.text.width} is not the U-Net's {config.unet.text_width}")
        unet, grid = config.unet, config.unet.image_size // config.unet.patch
        if unet.sketch != bool(config.text.sketch):
            raise ValueError("a sketch needs both the text encoder that draws it and the U-Net that reads it")
        if unet.sketch and config.text.sketch_shape != (grid, grid, unet.channels):
            raise ValueError(f"a sketch of {config.text.sketch_shape} does not fit {(grid, grid, unet.channels)}")
        self.config = config
        self.text = TextEncoder(config.text)
        self.unet = UNet(config.unet)

    @property
    def shape(self) -> tuple[int, int, int]:
        unet = self.config.unet
        return (unet.image_size, unet.image_size, unet.channels)

    def dropped(self, inputs: tuple[mx.array, ...], keep: mx.array) -> tuple[mx.array, ...]:
        """The inputs (word vectors, mask) without any word wherever keep `[B]` is False."""
        vectors, mask = inputs
        return vectors, mask & keep[:, None]

    def encode(self, vectors: mx.array, mask: mx.array) -> Condition:
        return self.text(vectors, mask)

    def predict(self, x: mx.array, t: mx.array, condition: Condition, step: mx.array | None = None) -> mx.array:
        return self.unet(x, t, condition, step)

    def __call__(self, x: mx.array, t: mx.array, vectors: mx.array, mask: mx.array) -> mx.array:
        return self.predict(x, t, self.encode(vectors, mask))
