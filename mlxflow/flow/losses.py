"""Conditional flow matching: regress the velocity of single pairs, whose mean is the marginal velocity.

    L = E_{t, x0, x1} || v(x_t, t) - u_t(x0, x1) ||^2        (Lipman et al. 2023, eq. 9 and 14)

The network may predict the velocity, the data x1 or the noise x0. With x_t given these differ by a factor
that depends on t alone: v_hat - u = g(t) (output - target). So the velocity loss of any prediction is
g(t)^2 |output - target|^2, and that weight is capped, since g is infinite at one end of the path. For data
prediction on CondOT g^2 = 1 / (1 - t)^2, and the cap acts as the one of min-SNR (Hang et al. 2023).
"""

from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import Path
from mlxflow.runtime import mx

CAP = 5.0


def target(prediction: str, path: Path, x0: mx.array, x1: mx.array, t: mx.array) -> mx.array:
    """What the network's output is compared with: x1, x0 or u_t, of x1's shape."""
    if prediction == "data":
        return x1
    if prediction == "noise":
        return x0
    if prediction == "velocity":
        return path.target(x0, x1, t)
    raise MlxflowError(
        f"There is no prediction type '{prediction}' to train: choose data, velocity or noise."
    )


def weight(prediction: str, path: Path, t: mx.array, cap: float | None = CAP) -> mx.array:
    """min(g(t)^2, cap), [B]: turns squared error of the output into that of the velocity. None: no cap."""
    a, s, da, ds = path.a(t), path.s(t), path.da(t), path.ds(t)
    if prediction == "velocity":
        return mx.ones_like(t)
    if prediction not in ("data", "noise"):
        raise MlxflowError(
            f"There is no prediction type '{prediction}' to train: choose data, velocity or noise."
        )
    g = (da * s - a * ds) / mx.maximum(s if prediction == "data" else a, 1e-6)
    return mx.square(g) if cap is None else mx.minimum(mx.square(g), cap)


def flow_matching(
    output: mx.array,
    prediction: str,
    path: Path,
    x0: mx.array,
    x1: mx.array,
    t: mx.array,
    *,
    cap: float | None = CAP,
    contrast: float = 0.0,
) -> mx.array:
    """Loss of each sample, [B]: the mean over its numbers of the (capped) squared velocity error.

    output, x0, x1: [B, ...]; t: [B]. `contrast` is the lambda of contrastive flow matching (Stoica et al.
    2025, 0.05 there): the velocity is pushed away from that of another pair, the next in the batch, at
    the same x_t and t. It makes the loss smaller, and negative is possible: report validation without it.
    """
    if output.shape != x1.shape or x0.shape != x1.shape or t.shape != (x1.shape[0],):
        raise MlxflowError(
            f"Shapes of output {tuple(output.shape)}, noise {tuple(x0.shape)}, data "
            f"{tuple(x1.shape)} and times {tuple(t.shape)} do not belong together."
        )
    axes = tuple(range(1, x1.ndim))
    error = mx.square(output - target(prediction, path, x0, x1, t)).mean(axes)
    if contrast:
        other = path.target(mx.roll(x0, 1, axis=0), mx.roll(x1, 1, axis=0), t)
        away = path.convert(path.sample(x0, x1, t), other, t, "velocity", prediction)
        error = error - contrast * mx.square(output - away).mean(axes)
    return weight(prediction, path, t, cap) * error


def by_time_bin(losses: mx.array, t: mx.array, bins: int = 10) -> tuple[mx.array, mx.array]:
    """Sum of the losses [B] and their count in equal bins of t, each [bins]: divide after adding batches."""
    index = mx.clip(mx.floor(t * bins), 0, bins - 1).astype(mx.int32)
    member = (index[:, None] == mx.arange(bins)[None]).astype(losses.dtype)
    return losses @ member, member.sum(0)
