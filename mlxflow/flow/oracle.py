"""The exact flow of a finite data set: what a network with no limit and no generalisation would learn.

Given images x_i with weights w_i, p_t(x | x_i) = N(x; a x_i, s^2 I), so the posterior over images and the
marginal velocity have closed forms (Lipman et al. 2023, eq. 6 and 8, for an empirical distribution):

    p(i | x, t) = softmax_i( log w_i - |x - a x_i|^2 / (2 s^2) ),    E[x1 | x, t] = sum_i p(i | x, t) x_i,

and u(x, t) follows from E[x1 | x, t] as from any data prediction. It is a test oracle (no training involved);
its loss is the floor under every network's loss on this data, and its posterior says which images a state
could still become. A network that reaches the floor has memorised the set.
"""

import math
from typing import NamedTuple

import numpy as np

from mlxflow.errors import MlxflowError
from mlxflow.flow.losses import CAP, weight
from mlxflow.flow.paths import Path, over
from mlxflow.flow.solvers import STRAIGHT
from mlxflow.runtime import mx

# Images whose distances are found at once: bounds the float64 copy.
CHUNK = 512


class Nearest(NamedTuple):
    """The copy distance of each sample [B] (RMS a number), the nearest image, and nearest over second."""

    distance: mx.array
    index: mx.array
    ratio: mx.array


class Oracle:
    """The flow of `images` [N, ...] along `path`, with `weights` [N] (positive, any sum; None: equal).

    `floor` is that of `Path.velocity_from_data`: small, since E[x1 | x] is exact here.
    """

    def __init__(
        self, images: mx.array, path: Path = STRAIGHT, weights: mx.array | None = None, floor: float = 1e-3
    ):
        if images.shape[0] < 1:
            raise MlxflowError("The oracle needs at least one image.")
        if weights is None:
            weights = mx.full((images.shape[0],), 1 / images.shape[0])
        if weights.shape != images.shape[:1] or not (weights > 0).all().item():
            raise MlxflowError("The oracle needs one positive weight for each image.")
        self.shape, self.path, self.floor = images.shape[1:], path, floor
        self.flat = images.reshape(images.shape[0], -1)
        self.weights = weights / weights.sum()
        with mx.stream(mx.cpu):
            parts = [mx.square(self._exact(i)).sum(1) for i in range(0, images.shape[0], CHUNK)]
            for part in parts:
                mx.eval(part)
            self.squares = mx.concatenate(parts)

    def _exact(self, start: int) -> mx.array:
        """CHUNK flat images from `start`, float64; within mx.stream(mx.cpu)."""
        return self.flat[start : start + CHUNK].astype(mx.float64)

    def squared_distances(self, x: mx.array, a: mx.array) -> mx.array:
        """|x - a x_i|^2 less |x|^2, float64 [B, N], for x [B, ...] and a [B].

        In float64 on the CPU: near t = 1 it is divided by 2 s^2, and float32's rounding of a sum over 16,384
        numbers would be many nats. |x|^2 is the same for every image.
        """
        with mx.stream(mx.cpu):
            flat = x.reshape(x.shape[0], -1).astype(mx.float64)
            a = a.astype(mx.float64)[:, None]
            products = []
            for i in range(0, self.flat.shape[0], CHUNK):
                products.append(flat @ self._exact(i).T)
                mx.eval(products[-1])
            return mx.square(a) * self.squares[None] - 2 * a * mx.concatenate(products, axis=1)

    def log_posterior(self, x: mx.array, t: mx.array, allowed: mx.array | None = None) -> mx.array:
        """log p(i | x, t), [B, N], of x's type; x [B, ...], t [B] (or one time).

        `allowed` (bool [B or 1, N]) is the condition: the images that each sample may be; others get -inf.
        """
        if x.shape[1:] != self.shape:
            raise MlxflowError(
                f"The oracle's images are {tuple(self.shape)}, the state is {tuple(x.shape[1:])}."
            )
        t = mx.broadcast_to(over(t, x).reshape(-1), (x.shape[0],))
        logits = self.squared_distances(x, self.path.a(t))
        with mx.stream(mx.cpu):
            s = mx.maximum(self.path.s(t).astype(mx.float64), 1e-6)[:, None]
            logits = mx.log(self.weights.astype(mx.float64))[None] - logits / (2 * mx.square(s))
            if allowed is not None:
                if not allowed.any(axis=1).all().item():
                    raise MlxflowError("A condition of the oracle allows no image at all.")
                logits = mx.where(allowed, logits, mx.array(-math.inf, dtype=mx.float64))
            return (logits - mx.logsumexp(logits, axis=1, keepdims=True)).astype(x.dtype)

    def posterior(self, x: mx.array, t: mx.array, allowed: mx.array | None = None) -> mx.array:
        """p(i | x, t), [B, N]: which images x_t could be; rows sum to one."""
        return mx.exp(self.log_posterior(x, t, allowed))

    def data(self, x: mx.array, t: mx.array, allowed: mx.array | None = None) -> mx.array:
        """E[x1 | x, t], of x's shape: the best data prediction there is."""
        return (self.posterior(x, t, allowed) @ self.flat.astype(x.dtype)).reshape(x.shape)

    def velocity(self, x: mx.array, t: mx.array, allowed: mx.array | None = None) -> mx.array:
        """u(x, t), of x's shape; with `allowed` the conditional one: guidance takes this method as it is."""
        return self.path.velocity_from_data(x, self.data(x, t, allowed), t, self.floor)

    def variance(self, x: mx.array, t: mx.array, allowed: mx.array | None = None) -> mx.array:
        """What E[x1 | x, t] leaves unknown: the posterior variance of x1, mean over its numbers, [B].

        In float64: it is a difference that vanishes once a single image is left.
        """
        p = self.posterior(x, t, allowed)
        # Towards the data hardly any images are left: the others cost time and add nothing.
        left = mx.array(np.flatnonzero(np.asarray((p > 1e-12).any(axis=0))))
        with mx.stream(mx.cpu):
            p = p[:, left].astype(mx.float64)
            p = p / p.sum(1, keepdims=True)
            mean = 0.0
            for i in range(0, left.size, CHUNK):
                mean = mean + p[:, i : i + CHUNK] @ self.flat[left[i : i + CHUNK]].astype(mx.float64)
                mx.eval(mean)
            found = mx.maximum(p @ self.squares[left] - mx.square(mean).sum(1), 0) / self.flat.shape[1]
            return found.astype(x.dtype)

    def draw(self, key: mx.array, count: int) -> tuple[mx.array, mx.array, mx.array]:
        """`count` noise-data pairs, the data by the weights: x0, x1 [count, ...] and index [count]."""
        for_noise, for_data = mx.random.split(key)
        index = mx.random.categorical(mx.log(self.weights), num_samples=count, key=for_data)
        x1 = self.flat[index].reshape(count, *self.shape)
        return mx.random.normal(x1.shape, dtype=x1.dtype, key=for_noise), x1, index

    def nearest(self, x: mx.array) -> Nearest:
        """How near each x [B, ...] is to its nearest image; a copy has a small distance and a small ratio."""
        flat = x.reshape(x.shape[0], -1)
        squares = self.squared_distances(x, mx.ones((x.shape[0],)))
        with mx.stream(mx.cpu):
            squares = squares + mx.square(flat.astype(mx.float64)).sum(1, keepdims=True)
            index = mx.argmin(squares, axis=1)
            both = mx.sort(squares, axis=1)[:, :2]
            root = mx.sqrt(mx.maximum(both, 0) / flat.shape[1]).astype(x.dtype)
            ratio = root[:, 0] / mx.maximum(root[:, -1], 1e-12)
        return Nearest(root[:, 0], index, ratio)


class Floor(NamedTuple):
    """By bin of t: the loss's floor, its standard error, how many images (exp of the entropy) are left."""

    loss: list[float]
    standard_error: list[float]
    images: list[float]


def floor(
    oracle: Oracle,
    key: mx.array,
    *,
    prediction: str = "data",
    cap: float | None = CAP,
    bins: int = 10,
    count: int = 64,
    batch: int = 64,
    groups: mx.array | None = None,
) -> Floor:
    """The oracle's own flow-matching loss, in the terms of `losses.flow_matching`, by bin of t.

    The excess of a run over it, bin by bin, is what a better network could still gain. Each bin gets `count`
    pairs at evenly spread times, and each pair its posterior variance in place of its squared error: the same
    mean with less scatter. `groups` [N] gives each image's condition: the floor of a network that is told it.
    """
    path, rows = oracle.path, []
    for b in range(bins):
        losses, entropies = [], []
        for start in range(0, count, batch):
            key, pairs = mx.random.split(key)
            size = min(batch, count - start)
            t = (b + (mx.arange(start, start + size) + 0.5) / count) / bins
            x0, x1, index = oracle.draw(pairs, size)
            allowed = None if groups is None else groups[index][:, None] == groups[None]
            x = path.sample(x0, x1, t)
            losses.append(scale(prediction, path, t, cap) * oracle.variance(x, t, allowed))
            log_p = oracle.log_posterior(x, t, allowed)
            p = mx.exp(log_p)
            entropies.append(-mx.where(p > 0, p * log_p, 0).sum(1))
            mx.eval(losses[-1], entropies[-1])
        loss = mx.concatenate(losses)
        spread = math.sqrt(mx.var(loss, ddof=1).item() / count) if count > 1 else math.nan
        rows.append((loss.mean().item(), spread, mx.exp(mx.concatenate(entropies)).mean().item()))
    return Floor(*(list(column) for column in zip(*rows)))


def scale(prediction: str, path: Path, t: mx.array, cap: float | None) -> mx.array:
    """What turns squared error of the data into the loss of `prediction`, [B]: see `losses.weight`."""
    w = weight(prediction, path, t, cap)
    if prediction == "data":
        return w
    if prediction == "noise":
        return w * mx.square(path.a(t) / mx.maximum(path.s(t), 1e-6))
    return w * weight("data", path, t, None)
