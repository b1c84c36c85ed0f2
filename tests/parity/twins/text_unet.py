"""The emoji model: text encoder and U-Net. The config has one table of sizes for each."""

from torch import Tensor, nn

from .text import Condition, TextEncoder
from .unet import UNet


class TextUNet(nn.Module):
    def __init__(self, sizes: dict):
        super().__init__()
        self.text, self.unet = TextEncoder(sizes["text"]), UNet(sizes["unet"])

    def encode(self, vectors: Tensor, mask: Tensor) -> Condition:
        return self.text(vectors, mask)

    def null(self, vectors: Tensor, mask: Tensor) -> Condition:
        """The condition of prompts without a word."""
        return self.encode(vectors, mask & False)

    def predict(self, x: Tensor, t: Tensor, condition: Condition, step: Tensor | None = None) -> Tensor:
        return self.unet(x, t, condition, step)

    def forward(self, x: Tensor, t: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
        return self.predict(x, t, self.encode(vectors, mask))
