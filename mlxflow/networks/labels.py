"""Class labels as a condition, shared by every network that is not told words.

    inputs = (label [B] int32,)      0 <= label < classes, or `classes`: the null, a row of the table of its own
    inputs = ()                      an unconditional network (classes = 0)

A network agrees with its data on `inputs`: `encode(*inputs)` makes the condition that a sampler keeps,
`dropped(inputs, keep)` puts the null in the place of some samples' inputs.
"""

import mlx.nn as nn

from mlxflow.runtime import mx


class Labelled(nn.Module):
    """Base of networks with `classes` labels. A subclass has `config.classes`, `shape` and `predict`."""

    def make_labels(self, classes: int, width: int) -> None:
        """The table `[classes + 1, width]`; its last row is the null. Nothing for an unconditional network."""
        if classes:
            self.labels = 0.02 * mx.random.normal((classes + 1, width))

    def dropped(self, inputs: tuple[mx.array, ...], keep: mx.array) -> tuple[mx.array, ...]:
        """The inputs with the null label wherever keep `[B]` is False."""
        return tuple(mx.where(keep, label, self.config.classes) for label in inputs)

    def encode(self, *inputs: mx.array):
        """The condition: rows of the table `[B, width]`; () without classes."""
        return self.labels[inputs[0]] if self.config.classes else ()

    def __call__(self, x: mx.array, t: mx.array, *inputs: mx.array) -> mx.array:
        return self.predict(x, t, self.encode(*inputs))
