"""The U-Net for classes: a label is a prompt of one word, the null label (the last row) a prompt of none."""

import torch
from torch import Tensor, nn

from .text import Condition
from .unet import UNet


class LabelUNet(nn.Module):
    def __init__(self, sizes: dict):
        super().__init__()
        self.classes, width = sizes["classes"], sizes["text_width"]
        self.unet = UNet(sizes)
        self.labels = nn.Parameter(torch.zeros(self.classes + 1, width)) if self.classes else None
        self.register_buffer("nothing", torch.zeros(width), persistent=False)

    def encode(self, *label: Tensor) -> Condition | None:
        if not self.classes:
            return None
        row = self.labels[label[0]]
        return Condition(row[:, None], (label[0] != self.classes)[:, None], row, None)

    def null(self, *label: Tensor) -> Condition | None:
        return self.encode(*(torch.full_like(one, self.classes) for one in label))

    def predict(self, x: Tensor, t: Tensor, condition: Condition | None, step: Tensor | None = None) -> Tensor:
        if condition is None:
            row = self.nothing.expand(len(x), -1)
            untold = torch.zeros(len(x), 1, dtype=torch.bool, device=x.device)
            condition = Condition(row[:, None], untold, row, None)
        return self.unet(x, t, condition, step)

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        return self.predict(x, t, self.encode(*label))
