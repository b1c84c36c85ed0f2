"""Flow matching in an autoencoder's latent space: pictures are encoded once and kept, samples are decoded.

    x1 = scale * latents(picture),   scale = 1 / standard deviation over the training set (Rombach et al. 2022, app. G)

The encoded set lies in the user's cache folder under a name made from the weights and the pictures, so that every run
on them finds it; the autoencoder itself is copied into the run folder, and its hash and the scale are in the config.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mlxflow.runtime import mx

import numpy as np  # noqa: E402

from mlxflow import paths, weights  # noqa: E402
from mlxflow.data.labelled import Labelled, indices, open_labelled, to_rgba, to_unit  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.training.dataset import VAL, LabelDataset, spread  # noqa: E402

BATCH = 64


def encoded(network, images: np.ndarray) -> np.ndarray:
    """Latents float32 `[N, *latent_shape]`, not scaled, of uint8 pictures `[N, S, S, C]`."""
    latents = mx.compile(network.latents)
    made = np.empty((len(images), *network.latent_shape), np.float32)
    for start in range(0, len(images), BATCH):
        # The last batch is filled up, so that one shape is compiled.
        take = np.arange(start, start + BATCH) % len(images)
        part = np.array(latents(mx.array(to_unit(images[take]))).astype(mx.float32))
        made[start:start + BATCH] = part[:len(images) - start]
    return made


def cached(model: weights.Model, parts: dict[str, Labelled], scale: float | None) -> tuple[dict[str, np.ndarray], float]:
    """The scaled latents of each part and their scale, from the cache or made now; on rank 0, the others wait."""
    digest = hashlib.sha256(weights.file_sha256(model.source).encode())
    for part in parts.values():
        digest.update(np.ascontiguousarray(part.images))
    folder = paths.cache_dir() / "latents"
    file = folder / f"{digest.hexdigest()[:32]}.safetensors"
    group = mx.distributed.init()
    if group.rank() == 0 and not file.is_file():
        arrays = {name: mx.array(encoded(model.network, part.images)) for name, part in parts.items() if len(part)}
        partial = file.with_name(f".{os.getpid()}.safetensors")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            weights.write_arrays(partial, arrays)
            os.replace(partial, file)
        except (OSError, RuntimeError) as error:
            raise MlxflowError(f"The encoded pictures cannot be kept in {folder} ({error}).") from None
        finally:
            partial.unlink(missing_ok=True)
    mx.eval(mx.distributed.all_sum(mx.array(1.0), group=group))
    arrays = {name: np.array(a) for name, a in weights.read_arrays(file).items()}
    scale = scale or 1 / float(arrays["train"].std(dtype=np.float64))
    return {name: a * np.float32(scale) for name, a in arrays.items()}, scale


class LatentDataset(LabelDataset):
    """Scaled latents with labels; `pictures` decodes. scale: another model's, whose latents these have to be."""

    def __init__(self, folder: Path, autoencoder: Path, classes: int | None, scale: float | None = None):
        model = weights.load(autoencoder, dtype=mx.float32)
        network = model.network
        if not hasattr(network, "latents"):
            raise MlxflowError(f"{autoencoder} holds a {network.kind}, not an autoencoder.")
        pixels = open_labelled(folder, network.shape[0], network.shape[2])
        pixels["val"] = spread(pixels["val"], VAL)
        latents, scale = cached(model, pixels, scale or model.config.get("scale"))
        parts = {name: Labelled(latents.get(name, np.empty((0, *network.latent_shape), np.float32)), part.labels,
                                part.names) for name, part in pixels.items()}
        super().__init__(parts, len(pixels["train"].names) if classes is None else classes)
        self.network, self.scale = network, scale
        self.files = {weights.AUTOENCODER: model.source}
        self.stamp |= {"autoencoder": {"sha256": weights.file_sha256(model.source), "scale": scale}}

    def fixed_set(self, data):
        return (data.images, data.labels) if self.conditional else (data.images,)

    def __getstate__(self):
        """Without the network: a process that makes batches (data/workers.py) has no use for it."""
        return {name: value for name, value in vars(self).items() if name != "network"}

    def batches(self, config, rank, size, step, stride=1) -> Iterator[tuple[np.ndarray, ...]]:
        for chosen in indices(len(self.train), config.batch, config.seed, step, rank, size, stride):
            part = self.train.take(chosen)
            yield self.fixed_set(part)

    def pictures(self, values):
        return to_rgba(decoded(self.network, values, self.scale))


def decoded(network, values: np.ndarray, scale: float) -> np.ndarray:
    """Pictures float32 `[N, S, S, C]`, about [-1, 1], of scaled latents."""
    parts = [np.array(network.pictures(mx.array(values[i:i + BATCH] / np.float32(scale))))
             for i in range(0, len(values), BATCH)]
    return np.concatenate(parts)
