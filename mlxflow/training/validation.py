"""Validation loss that is comparable between runs: fixed noise, fixed times, one weighting for every prediction.

For each picture and each bin of t one pair (x0, t); whatever the network predicts is turned into its data
estimate, and the loss is min(1 / (1 - t)^2, cap) |x1_hat - x1|^2, averaged within the bin. The total is the mean of
the bins.
"""

from mlxflow.runtime import mx

import numpy as np  # noqa: E402

from mlxflow.flow.losses import flow_matching  # noqa: E402
from mlxflow.weights import path_of  # noqa: E402

BINS = 10
CAP = 5.0
_GOLDEN = 0.6180339887498949


def fixed_pairs(count: int, shape: tuple[int, ...], bin: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise float32 `[count, *shape]` and times `[count]` within bin number `bin`; the same for every run."""
    noise = np.random.default_rng([seed, 7, bin]).standard_normal((count, *shape), dtype=np.float32)
    within = (np.arange(count) * _GOLDEN + 0.5) % 1.0
    return noise, ((bin + within) / BINS).astype(np.float32)


def validation_loss(predict, process: dict, images: np.ndarray, *inputs: np.ndarray, batch: int = 32) -> dict:
    """{"loss": mean, "bins": [BINS means]} of predict(x, t, *inputs) on images `[N, S, S, C]` in [-1, 1].

    The last batch is filled up with the first pictures again and the copies left out of the mean, so that a
    compiled `predict` sees one shape.
    """
    path = path_of(process)
    count = len(images)
    bins = []
    for bin in range(BINS):
        noise, times = fixed_pairs(count, images.shape[1:], bin)
        losses = []
        for start in range(0, count, batch):
            take = np.arange(start, start + batch) % count
            x0, x1, t = mx.array(noise[take]), mx.array(images[take]), mx.array(times[take])
            x = path.sample(x0, x1, t)
            output = predict(x, t, *(mx.array(v[take]) for v in inputs))
            estimate = path.convert(x, output, t, process["prediction"], "data", process["floor"])
            loss = flow_matching(estimate, "data", path, x0, x1, t, cap=CAP)
            mx.eval(loss)
            losses.append(np.array(loss)[:count - start])
        bins.append(float(np.concatenate(losses).mean()))
    return {"loss": float(np.mean(bins)), "bins": bins}
