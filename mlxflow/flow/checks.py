"""Is a network blind? The oldest silent failure ignores t; that of a text model ignores the text.

Each input is exchanged between the samples of a batch while the others stay, and the output's relative change
is measured: sqrt(sum |f(exchanged) - f|^2 / sum |f|^2). Pass the network's *own* output: a velocity computed
from a data prediction depends on t and x by its formula, even where the network sees neither.
"""

from typing import Any, NamedTuple

from mlx.utils import tree_map

from mlxflow.errors import MlxflowError
from mlxflow.flow.guidance import ConditionalVelocity
from mlxflow.runtime import mx

# A trained network changes by a tenth or more; rounding alone is below 1e-5.
BLIND = 1e-3


class Sensitivity(NamedTuple):
    """Relative change of the output when one input is exchanged; 0 is blind."""

    t: float
    x: float
    condition: float

    @property
    def blind_to(self) -> tuple[str, ...]:
        """The inputs that the network ignores, empty when all is well."""
        return tuple(name for name, change in self._asdict().items() if not change > BLIND)


def sensitivity(network: ConditionalVelocity, x: mx.array, t: mx.array, condition: Any) -> Sensitivity:
    """How much `network(x, t, condition)` depends on each input.

    x [B, ...], t [B] and the condition's arrays must differ between neighbours in the batch, B >= 2. A
    network that gives zeros (one with zero-initialised last layers, before its first step) is blind to all.
    """
    if x.shape[0] < 2:
        raise MlxflowError("A check for blindness needs a batch of at least 2.")

    def turn(value):
        return mx.roll(value, 1, axis=0)

    before = network(x, t, condition)
    size = mx.square(before).sum().item()
    others = {
        "t": (x, turn(t), condition),
        "x": (turn(x), t, condition),
        "condition": (x, t, tree_map(turn, condition)),
    }
    changes = {name: mx.square(network(*inputs) - before).sum().item() for name, inputs in others.items()}
    return Sensitivity(**{name: (change / size) ** 0.5 if size else 0.0 for name, change in changes.items()})
