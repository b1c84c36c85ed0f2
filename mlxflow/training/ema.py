"""Exponential moving average of the weights, which is what is evaluated and shipped.

    e <- e + (1 - d) (w - e),   d = min(decay, (1 + step) / (10 + step))

The warm-up forgets the random start: early on the average spans about a tenth of the run.
"""

from mlxflow.runtime import mx


def decay_at(decay: float, step: int) -> float:
    """The decay of update number `step`, counted from 0."""
    return min(decay, (1 + step) / (10 + step))


def updated(average: dict[str, mx.array], weights: dict[str, mx.array], decay: mx.array) -> dict[str, mx.array]:
    """The new average of arrays by name; decay is a scalar array."""
    return {name: e + (1 - decay) * (weights[name] - e) for name, e in average.items()}
