"""Training autoencoders, in the same loop as everything else.

    KL-VAE:  mean (x_hat - x)^2 + kl_weight KL / D          KL in nats a picture, D numbers in a picture
    VQ-VAE:  mean (x_hat - x)^2 + commitment mean (z - sg(e))^2;  the codebook follows its own running means

PSNR is 10 log10(4 / mean squared error): pictures span 2, from -1 to 1.
"""

import math

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_unflatten  # noqa: E402

from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.networks.autoencoder import codebook_update, perplexity  # noqa: E402
from mlxflow.training.config import TrainConfig  # noqa: E402
from mlxflow.training.objective import key_for  # noqa: E402

_NOISE, _REVIVE = 13, 14
SHOWN = 16


def psnr(mean_squared_error: float) -> float:
    """In dB, for pictures in [-1, 1]."""
    return 10 * math.log10(4 / max(mean_squared_error, 1e-12))


class Reconstruction:
    """The objective of both kinds of autoencoder; sums are [squared error, pictures, KL] or [squared error, pictures,
    counts, sums of the codes], the first of them still spread over the places in a batch."""

    process: dict = {}

    def __init__(self, config: TrainConfig, network: nn.Module, data, rank: int, size: int):
        self.config, self.network, self.data, self.rank = config, network, data, rank
        if config.precision == "bfloat16" or config.recompute:
            raise MlxflowError("Autoencoders train in float32 and without recompute: leave both settings out.")
        self.quantised = network.kind == "vq-vae"
        self.buffers = ("codebook", "counts", "sums") if self.quantised else ()
        self.numbers = math.prod(network.shape)

    def arrays(self, batch, step):
        images = mx.array(batch[0])
        if self.quantised:
            return (images,)
        shape = (len(batch[0]), *self.network.latent_shape)
        return images, mx.random.normal(shape, key=key_for(self.config.seed, _NOISE, step, self.rank))

    def loss(self, weights, x, *noise):
        self.network.update(tree_unflatten(list(weights.items())))
        if self.quantised:
            made, extra, counts, sums = self.network(x)
            cost, own = self.config.commitment * extra.mean(), [counts, sums]
        else:
            made, divergence = self.network(x, *noise)
            cost, own = self.config.kl_weight / self.numbers * divergence.mean(), [divergence]
        error = mx.square(made - x).mean(axis=(1, 2, 3))
        # A value for each picture, not their sum: mx.compile (0.32) fails on a function that gives sum and mean.
        return error.mean() + cost, [error, (error >= 0).astype(mx.float32), *own]

    def settle(self, before, sums, step):
        if not self.quantised:
            return {}
        noise = mx.random.normal(before["codebook"].shape, key=key_for(self.config.seed, _REVIVE, step))
        return dict(zip(self.buffers, codebook_update(*before.values(), sums[2], sums[3], noise)))

    def entries(self, sums):
        error, count = sums[0].sum(), sums[1].sum()
        line = {"psnr": round(psnr(error / count), 3)}
        if self.quantised:
            return line | {"perplexity": round(perplexity(sums[2]), 2)}
        return line | {"kl": round(sums[2].sum() / count, 3)}

    def validate(self, network):
        return {name: reconstruction_scores(network, part[0]) for name, part in self.data.fixed.items()}

    def sheet(self, network):
        """Rows of originals, each over its reconstruction."""
        from mlxflow.sampling.output import grid

        originals = next(iter(self.data.fixed.values()))[0][:SHOWN]
        made = np.array(network.pictures(network.latents(mx.array(originals))))
        rows = [part[i:i + 8] for i in range(0, len(originals), 8) for part in (originals, made)]
        return grid(self.data.pictures(np.concatenate(rows)), min(8, len(originals)))


def reconstruction_scores(network, images: np.ndarray, batch: int = 64) -> dict:
    """{"loss": mean squared error, "psnr": dB, "kl": nats a picture or "perplexity": codes} without chance: the
    reconstruction of the mean, or of the nearest codes."""
    error, own = 0.0, []
    for start in range(0, len(images), batch):
        x = mx.array(images[start:start + batch])
        if network.kind == "vq-vae":
            nearest, _, counts, _ = network.quantise(network.latents(x))
            made = network.decoder(nearest)
            own.append(np.array(counts))
        else:
            made, divergence = network(x, mx.zeros((len(x), *network.latent_shape)))
            own.append(float(divergence.sum()))
        error += float(mx.square(made - x).mean(axis=(1, 2, 3)).sum())
    loss = error / len(images)
    scores = {"loss": loss, "psnr": psnr(loss)}
    if network.kind == "vq-vae":
        return scores | {"perplexity": perplexity(sum(own))}
    return scores | {"kl": sum(own) / len(images)}
