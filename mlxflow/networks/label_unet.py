"""The U-Net for classes: a label is a prompt of one token, so networks/unet.py serves as it is.

    tokens = pooled = the label's row of a table;  the mask is False for the null label, and the U-Net puts its own
    learned null in the place of both. An unconditional U-Net sees the null always.
"""

from dataclasses import dataclass, fields

from mlxflow.networks.labels import Labelled
from mlxflow.networks.text import Condition
from mlxflow.networks.unet import UNet, UNetConfig
from mlxflow.runtime import mx


@dataclass(frozen=True)
class LabelUNetConfig(UNetConfig):
    """The U-Net's sizes (`text_width` is the label's), and the number of classes; 0 is unconditional."""

    classes: int = 0


class LabelUNet(Labelled):
    """Prediction `[B, S, S, C]` from x `[B, S, S, C]`, t `[B]` and labels."""

    kind = "unet"

    def __init__(self, config: LabelUNetConfig):
        super().__init__()
        self.config = config
        self.unet = UNet(UNetConfig(**{f.name: getattr(config, f.name) for f in fields(UNetConfig)}))
        self.make_labels(config.classes, config.text_width)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.config.image_size, self.config.image_size, self.config.channels)

    def encode(self, *inputs: mx.array):
        """A `Condition` of one token; () without classes."""
        if not self.config.classes:
            return ()
        row = self.labels[inputs[0]]
        return Condition(row[:, None], (inputs[0] != self.config.classes)[:, None], row, mx.zeros((len(row), 0)))

    def predict(self, x: mx.array, t: mx.array, condition, step: mx.array | None = None) -> mx.array:
        if not self.config.classes:
            nothing = mx.zeros((x.shape[0], self.config.text_width), dtype=x.dtype)
            condition = Condition(nothing[:, None], mx.zeros((x.shape[0], 1), dtype=mx.bool_), nothing,
                                  mx.zeros((x.shape[0], 0)))
        return self.unet(x, t, condition, step)
