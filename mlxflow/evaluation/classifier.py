"""A small classifier trained here, as the judge of generated pictures of classes.

Two numbers: the share of pictures that it reads as the class that was asked for, and the Frechet distance between its
features of generated and of real pictures. The second has FID's formula but not its features: it is called "classifier
Frechet distance", and compares with nothing outside of this project.

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)        (Dowson & Landau 1982; Heusel et al. 2017, eq. 6)
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from mlxflow.data.labelled import Labelled, batches, to_unit  # noqa: E402
from mlxflow.networks.blocks import Conv3x3, RMSNorm, silu, space_to_depth  # noqa: E402
from mlxflow.training.optimizers import clipped, init_moments, learning_rate_at, update  # noqa: E402
from mlxflow.weights import read_arrays, write_arrays  # noqa: E402

FEATURES = 128
BATCH = 128


class Classifier(nn.Module):
    """Logits `[B, classes]` of pictures `[B, S, S, C]` in [-1, 1]; S is a multiple of 8."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        widths = (32, 64, FEATURES)
        self.downs = [nn.Linear(4 * w, out) for w, out in zip((channels, *widths), widths)]
        self.convs = [Conv3x3(w, w) for w in widths]
        self.norms = [RMSNorm(w) for w in widths]
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: mx.array) -> mx.array:
        """`[B, FEATURES]`: what the last layer reads."""
        for down, conv, norm in zip(self.downs, self.convs, self.norms):
            x = down(space_to_depth(x, 2))
            x = norm(x + conv(silu(x)))
        return silu(x).mean(axis=(1, 2))

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.features(x))


def train_classifier(data: Labelled, steps: int, seed: int = 0,
                     progress: Callable[[int, float], None] | None = None) -> Classifier:
    """A classifier after `steps` batches of 128 pictures moved by up to two pixels; progress(step, loss)."""
    mx.random.seed(seed)
    network = Classifier(data.images.shape[-1], len(data.names))
    arrays = dict(tree_flatten(network.parameters()))
    moments = init_moments("adamw", arrays)

    def loss_of(arrays, x, label):
        network.update(tree_unflatten(list(arrays.items())))
        return nn.losses.cross_entropy(network(x), label, label_smoothing=0.05, reduction="mean")

    def step_of(arrays, moments, x, label, rate, step):
        loss, gradient = mx.value_and_grad(loss_of)(arrays, x, label)
        arrays, moments = update(arrays, moments, clipped(gradient, 1.0)[0], rate, step, 0.05)
        return arrays, moments, loss

    compiled = mx.compile(step_of)
    for step, (images, labels) in zip(range(steps), batches(data, BATCH, seed, shift=2)):
        rate = learning_rate_at(step, 3e-3, 50, "cosine", steps)
        arrays, moments, loss = compiled(arrays, moments, mx.array(images), mx.array(labels), mx.array(rate),
                                         mx.array(float(step + 1)))
        mx.eval(arrays, moments, loss)
        if progress:
            progress(step + 1, loss.item())
    network.update(tree_unflatten(list(arrays.items())))
    return network


def judged(network: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(class numbers `[N]`, features float64 `[N, FEATURES]`) of pictures float32 `[N, S, S, C]` in [-1, 1]."""
    read, features = [], []
    for start in range(0, len(images), 256):
        f = network.features(mx.array(np.clip(images[start:start + 256], -1, 1)))
        read.append(np.array(mx.argmax(network.head(f), axis=1)))
        features.append(np.array(f, dtype=np.float64))
    return np.concatenate(read), np.concatenate(features)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance between Gaussians fitted to features `[N, D]` and `[M, D]`; 0 for the same features."""
    mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    one, two = (np.cov(x, rowvar=False) for x in (a, b))
    root = square_root(one)
    cross = np.linalg.eigvalsh(root @ two @ root)
    return float(mean + np.trace(one) + np.trace(two) - 2 * np.sqrt(np.maximum(cross, 0)).sum())


def square_root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


class Judge:
    """A trained classifier with its accuracy on the test set, and the test set's features."""

    def __init__(self, network: Classifier, test: Labelled):
        self.network = network
        read, self.real = judged(network, to_unit(test.images))
        self.accuracy = float((read == test.labels).mean())

    def scores(self, images: np.ndarray, asked: np.ndarray) -> dict[str, float]:
        """{"read as asked": share, "frechet": classifier Frechet distance to the test set}."""
        read, features = judged(self.network, images)
        return {"read as asked": float((read == np.asarray(asked)).mean()), "frechet": frechet(features, self.real)}


def judge(file: Path, parts: dict[str, Labelled], steps: int = 1400,
          progress: Callable[[int, float], None] | None = None) -> Judge:
    """The classifier in `file`, which is trained and written there first if it is not, or was made for other data."""
    train, test = parts["train"], parts["val"]
    about = {"steps": steps, "pictures": len(train), "names": list(train.names), "shape": list(train.images.shape[1:])}
    stamp = file.with_suffix(".json")
    if file.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == about:
        network = Classifier(train.images.shape[-1], len(train.names))
        network.update(tree_unflatten(list(read_arrays(file).items())))
        return Judge(network, test)
    network = train_classifier(train, steps, progress=progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(file, dict(tree_flatten(network.parameters())))
    stamp.write_text(json.dumps(about))
    return Judge(network, test)


def standard_error(share: float, count: int) -> float:
    """Of a share among `count`."""
    return math.sqrt(share * (1 - share) / count)
