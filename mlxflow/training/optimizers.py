"""Optimizers as functions: AdamW, or Muon for the matrices and AdamW for everything else.

    AdamW:  w <- w - r (m^ / (sqrt(v^) + eps) + decay w)                    (Loshchilov & Hutter 2019, algorithm 2)
    Muon:   w <- w - r (0.2 sqrt(max(rows, columns)) O + decay w),  O ~ U V^T of the Nesterov momentum U S V^T
            (Jordan et al. 2024; the factor: Liu et al. 2025, "Muon is Scalable", eq. 4)

The factor gives Muon's update the RMS that AdamW's usually has, so one learning rate serves both. Weights, moments
and gradients are flat dictionaries by parameter name; the caller compiles `update` together with its own work.
"""

import math

from mlxflow.runtime import mx

BETA1, BETA2, EPS = 0.9, 0.99, 1e-8
MOMENTUM = 0.95
# Layers that read or write data, or modulate, rather than mix features: Muon leaves them to AdamW.
_EDGES = ("stem", "head", "pixel", "position", "null", "film", "project", "label", "local", "slot")

Arrays = dict[str, mx.array]


def uses_muon(name: str, weight: mx.array) -> bool:
    """Whether Muon rather than AdamW moves this parameter."""
    return weight.ndim >= 2 and not any(part.startswith(_EDGES) for part in name.split("."))


def init_moments(optimizer: str, weights: Arrays) -> Arrays:
    """Zero moments: "m.NAME" for every parameter, "v.NAME" for those that AdamW moves."""
    moments = {f"m.{n}": mx.zeros_like(w) for n, w in weights.items()}
    adam = [n for n, w in weights.items() if optimizer == "adamw" or not uses_muon(n, w)]
    return moments | {f"v.{n}": mx.zeros_like(weights[n]) for n in adam}


def orthogonalised(matrix: mx.array, iterations: int = 5) -> mx.array:
    """U V^T of matrix = U S V^T, roughly, by the quintic Newton-Schulz iteration (singular values in 0.7 to 1.2)."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x * mx.rsqrt(mx.sum(mx.square(x)) + 1e-14)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x if wide else x.T


def _adamw(weight, gradient, m, v, rate, decay, step):
    m = BETA1 * m + (1 - BETA1) * gradient
    v = BETA2 * v + (1 - BETA2) * mx.square(gradient)
    size = mx.sqrt(v / (1 - mx.power(BETA2, step))) + EPS
    return weight - rate * (m / (1 - mx.power(BETA1, step)) / size + decay * weight), m, v


def _muon(weight, gradient, m, rate, decay):
    m = MOMENTUM * m + (1 - MOMENTUM) * gradient
    direction = MOMENTUM * m + (1 - MOMENTUM) * gradient
    flat = direction.reshape(direction.shape[0], -1)
    scale = 0.2 * math.sqrt(max(flat.shape))
    update = (scale * orthogonalised(flat)).reshape(weight.shape)
    return weight - rate * (update + decay * weight), m


def update(weights: Arrays, moments: Arrays, gradients: Arrays, rate: mx.array, step: mx.array,
           weight_decay: float) -> tuple[Arrays, Arrays]:
    """New weights and moments. rate and step (counted from 1, float32) are scalar arrays.

    Weight decay falls on matrices and kernels only. The moments tell which rule a parameter follows.
    """
    new_weights, new_moments = {}, {}
    for name, weight in weights.items():
        decay = weight_decay if weight.ndim >= 2 else 0.0
        m, v = moments[f"m.{name}"], moments.get(f"v.{name}")
        if v is None:
            new_weights[name], m = _muon(weight, gradients[name], m, rate, decay)
        else:
            new_weights[name], m, new_moments[f"v.{name}"] = _adamw(weight, gradients[name], m, v, rate, decay, step)
        new_moments[f"m.{name}"] = m
    return new_weights, new_moments


def clipped(gradients: Arrays, limit: float) -> tuple[Arrays, mx.array]:
    """Gradients scaled so that their joint norm is at most `limit`, and the norm before."""
    # Gradients may come transposed in memory. Were it left at that, so would the new weights be, and products with
    # them would round otherwise than with the same weights read back from a checkpoint.
    gradients = {n: mx.contiguous(g) for n, g in gradients.items()}
    norm = mx.sqrt(sum(mx.sum(mx.square(g)) for g in gradients.values()))
    scale = mx.minimum(limit / (norm + 1e-6), 1.0)
    return {n: g * scale for n, g in gradients.items()}, norm


def learning_rate_at(step: int, peak: float, warmup: int, schedule: str, steps: int) -> float:
    """Linear warm-up, then constant, or a cosine to a tenth of the peak at `steps`; step counts from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.55 + 0.45 * math.cos(math.pi * done))
