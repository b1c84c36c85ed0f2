"""Guidance: wrap velocity functions into one that follows its condition more closely.

A conditional velocity is `velocity(x, t, condition)`, where the condition is any tree of arrays batched on
axis 0 (a NamedTuple of tokens and mask, a label array): nothing here looks inside. The result is a plain
`velocity(x, t)` for a solver; it looks at t to choose its branches, so compile the network inside it, not the
wrapper. Guidance of scale 1 is the conditional model itself: the same bits, one branch.
"""

from collections.abc import Callable
from typing import Any

from mlx.utils import tree_map

from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import over
from mlxflow.flow.solvers import Velocity
from mlxflow.runtime import mx

ConditionalVelocity = Callable[[mx.array, mx.array, Any], mx.array]


def join(*conditions: Any) -> Any:
    """Stack condition trees of one structure along the batch."""
    return tree_map(lambda *leaves: mx.concatenate(leaves, axis=0), *conditions)


def expand(condition: Any, batch: int) -> Any:
    """A condition of batch 1 repeated to `batch`; one that has the batch already is left alone."""
    return tree_map(lambda c: mx.repeat(c, batch, axis=0) if c.shape[0] == 1 and batch > 1 else c, condition)


def extrapolate(weak: mx.array, strong: mx.array, scale) -> mx.array:
    """weak + scale (strong - weak)."""
    return weak + scale * (strong - weak)


def optimal_scale(null: mx.array, conditional: mx.array) -> mx.array:
    """The s of each sample that minimises |conditional - s null|^2, [B, 1, ...] (CFG-Zero*, Fan 2025)."""
    axes = tuple(range(1, null.ndim))
    return (conditional * null).sum(axes, keepdims=True) / (mx.square(null).sum(axes, keepdims=True) + 1e-8)


def classifier_free(
    velocity: ConditionalVelocity,
    condition: Any,
    null: Any,
    scale: float,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    optimised: bool = False,
    zero_until: float = 0.0,
) -> Velocity:
    """Classifier-free guidance: v(null) + scale (v(condition) - v(null)), in one call of batch 2B.

    Ho & Salimans 2022, eq. 6, with scale = 1 + w. `null` has the condition's structure, with its batch or a
    batch of 1: the dropped condition, or a negative prompt, from which the result is pushed away.
    interval: guide only for t within it (Kynkaanniemi et al. 2024); outside, one conditional call.
    optimised: scale the null branch by its projection on the conditional one (Fan et al. 2025, CFG-Zero*).
    zero_until: the velocity is zero, at no call, while t < zero_until (the same paper's zero-init; their K
    first steps of n are zero_until = K / n on a uniform grid).
    """
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise MlxflowError(f"The guidance interval ({low}, {high}) must lie within 0 and 1, low end first.")
    if not scale >= 0:
        raise MlxflowError(
            f"The guidance scale must be 0 or more, not {scale}; for a negative prompt pass it as null."
        )

    def guided(x: mx.array, t: mx.array) -> mx.array:
        batch = x.shape[0]
        # Compared in t's own type: 0.8 as float32 is above 0.8.
        if (t < zero_until).all().item():
            return mx.zeros_like(x)
        inside = (t >= low) & (t <= high)
        if scale == 1 or not inside.any().item():
            return velocity(x, t, expand(condition, batch))
        both = velocity(
            mx.concatenate([x, x]),
            mx.concatenate([t, t]),
            join(expand(condition, batch), expand(null, batch)),
        )
        strong, weak = mx.split(both, 2)
        if optimised:
            weak = optimal_scale(weak, strong) * weak
        result = extrapolate(weak, strong, scale)
        return result if inside.all().item() else mx.where(over(inside, x), result, strong)

    return guided


def autoguidance(
    velocity: Velocity, weak: Velocity, scale: float, *, interval: tuple[float, float] = (0.0, 1.0)
) -> Velocity:
    """weak + scale (velocity - weak), where `weak` is a worse model with the same condition.

    Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself": an early
    checkpoint serves.
    """
    if not scale >= 0:
        raise MlxflowError(f"The guidance scale must be 0 or more, not {scale}.")

    def guided(x: mx.array, t: mx.array) -> mx.array:
        strong = velocity(x, t)
        inside = (t >= interval[0]) & (t <= interval[1])
        if scale == 1 or not inside.any().item():
            return strong
        return mx.where(over(inside, x), extrapolate(weak(x, t), strong, scale), strong)

    return guided
