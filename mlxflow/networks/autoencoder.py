"""Autoencoders: a KL-VAE in the layout of Stable Diffusion's AutoencoderKL, and a VQ-VAE on the same two halves.

    encoder: conv, per level (residual blocks, halving), middle (residual, attention, residual), norm, silu, conv
    decoder: the same backwards, with one more residual block a level and doubling by repetition

KL-VAE (Kingma & Welling 2014): the encoder gives a mean and a log-variance, z = mean + exp(logvar / 2) noise.
VQ-VAE (van den Oord et al. 2017): z is replaced by the nearest of K vectors; its gradient passes straight through.
The names of the KL-VAE's parameters are those of `diffusers`, so its checkpoints differ by the order of axes only
(mlxflow/interop/diffusers.py). Pictures are `[B, S, S, C]` in [-1, 1], latents `[B, s, s, c]`.
"""

from dataclasses import dataclass

import mlx.nn as nn

from mlxflow.networks.blocks import Conv3x3, attention, depth_to_space, silu, space_to_depth
from mlxflow.runtime import mx


@dataclass(frozen=True)
class KLConfig:
    """Sizes. widths: a level each, from the largest grid to the smallest; `layers` residual blocks a level."""

    image_size: int = 32
    channels: int = 1
    latent: int = 4
    widths: tuple[int, ...] = (8, 16, 32)
    layers: int = 1
    groups: int = 4

    def __post_init__(self):
        if not self.widths or self.image_size % 2 ** (len(self.widths) - 1):
            raise ValueError(f"image_size {self.image_size} cannot be halved {len(self.widths) - 1} times")
        if self.groups < 1 or any(w % self.groups for w in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of groups {self.groups}")
        if min(self.channels, self.latent, self.layers) < 1:
            raise ValueError("channels, latent and layers must be 1 or more")


@dataclass(frozen=True)
class VQConfig(KLConfig):
    """The same sizes, and the number of vectors in the codebook."""

    codes: int = 256


PRESETS = {
    "small": {},
    "sd": {"image_size": 512, "channels": 3, "latent": 4, "widths": (128, 256, 512, 512), "layers": 2, "groups": 32},
}


class GroupNorm(nn.Module):
    """Normalisation over positions and the channels of a group, then weight and bias a channel (Wu & He 2018).

    Means over positions are taken a channel each, as a matrix product, then over the group's channels: on the CPU three
    times as quick as MLX's own, which transposes.
    """

    def __init__(self, groups: int, width: int):
        super().__init__()
        self.groups = groups
        self.weight = mx.ones((width,))
        self.bias = mx.zeros((width,))

    def __call__(self, x: mx.array) -> mx.array:
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        off = flat - self.mean(flat)
        scale = mx.rsqrt(self.mean(mx.square(off)) + 1e-6) * self.weight
        return (off * scale + self.bias).reshape(x.shape)

    def mean(self, flat: mx.array) -> mx.array:
        """Of `[B, N, C]` over positions and group, for each channel: `[B, 1, C]`."""
        batch, count, width = flat.shape
        channels = mx.full((batch, 1, count), 1 / count, dtype=flat.dtype) @ flat
        means = channels.reshape(batch, self.groups, -1).mean(axis=-1, keepdims=True)
        return mx.broadcast_to(means, (batch, self.groups, width // self.groups)).reshape(batch, 1, width)


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x through a 1x1 convolution where the width changes."""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs)
        self.conv1 = Conv3x3(inputs, outputs)
        self.norm2 = GroupNorm(groups, outputs)
        self.conv2 = Conv3x3(outputs, outputs)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if "conv_shortcut" in self else x)


class Attention(nn.Module):
    """Attention of one head over all positions, added to its input."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.group_norm = GroupNorm(groups, width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = [nn.Linear(width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        flat = self.group_norm(x).reshape(x.shape[0], 1, -1, x.shape[-1])
        return x + self.to_out[0](attention(self.to_q(flat), self.to_k(flat), self.to_v(flat))).reshape(x.shape)


class Down(nn.Module):
    """3x3 convolution of stride 2, padded below and to the right.

    out[i, j] = sum w[a, b] x[2i + a, 2j + b]: over blocks of 2x2 pixels that is a 2x2 convolution of stride 1 with
    the kernel padded to 4x4. The gradient of a strided convolution is slow on the CPU.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3)

    def __call__(self, x: mx.array) -> mx.array:
        width = x.shape[-1]
        kernel = mx.pad(self.conv.weight, [(0, 0), (0, 1), (0, 1), (0, 0)])
        kernel = kernel.reshape(width, 2, 2, 2, 2, width).transpose(0, 1, 3, 2, 4, 5).reshape(width, 2, 2, 4 * width)
        blocks = mx.pad(space_to_depth(x, 2), [(0, 0), (0, 1), (0, 1), (0, 0)])
        return mx.conv2d(blocks, kernel) + self.conv.bias


class Up(nn.Module):
    """Every pixel becomes 2x2, then a 3x3 convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv3x3(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(depth_to_space(mx.concatenate([x] * 4, axis=-1), 2))


class Level(nn.Module):
    """Residual blocks at one size, then half or double of it."""

    def __init__(self, inputs: int, outputs: int, layers: int, groups: int, resize: str | None):
        super().__init__()
        self.resnets = [Residual(inputs if i == 0 else outputs, outputs, groups) for i in range(layers)]
        if resize == "down":
            self.downsamplers = [Down(outputs)]
        elif resize == "up":
            self.upsamplers = [Up(outputs)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in (*self.resnets, *self.get("downsamplers", ()), *self.get("upsamplers", ())):
            x = layer(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the smallest size."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.resnets = [Residual(width, width, groups) for _ in range(2)]
        self.attentions = [Attention(width, groups)]

    def __call__(self, x: mx.array) -> mx.array:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    """Pictures `[B, S, S, C]` to `[B, s, s, outputs]`."""

    def __init__(self, config: KLConfig, outputs: int):
        super().__init__()
        widths, groups = config.widths, config.groups
        self.conv_in = Conv3x3(config.channels, widths[0])
        self.down_blocks = [Level(widths[max(0, i - 1)], w, config.layers, groups,
                                  "down" if i < len(widths) - 1 else None) for i, w in enumerate(widths)]
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = GroupNorm(groups, widths[-1])
        self.conv_out = Conv3x3(widths[-1], outputs)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents `[B, s, s, c]` to pictures `[B, S, S, C]`."""

    def __init__(self, config: KLConfig):
        super().__init__()
        widths, groups = config.widths[::-1], config.groups
        self.conv_in = Conv3x3(config.latent, widths[0])
        self.mid_block = Middle(widths[0], groups)
        self.up_blocks = [Level(widths[max(0, i - 1)], w, config.layers + 1, groups,
                                "up" if i < len(widths) - 1 else None) for i, w in enumerate(widths)]
        self.conv_norm_out = GroupNorm(groups, widths[-1])
        self.conv_out = Conv3x3(widths[-1], config.channels)

    def __call__(self, z: mx.array) -> mx.array:
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    """What both have: `latents(x)` and `pictures(z)`, each without chance, and their shapes."""

    def __init__(self, config: KLConfig, encoded: int):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, encoded)
        self.decoder = Decoder(config)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.config.image_size, self.config.image_size, self.config.channels)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.config.image_size // 2 ** (len(self.config.widths) - 1)
        return (side, side, self.config.latent)


class KLVAE(Autoencoder):
    """The KL-regularised autoencoder."""

    kind = "kl-vae"

    def __init__(self, config: KLConfig):
        super().__init__(config, 2 * config.latent)
        self.quant_conv = nn.Conv2d(2 * config.latent, 2 * config.latent, 1)
        self.post_quant_conv = nn.Conv2d(config.latent, config.latent, 1)

    def encode(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Mean and log-variance of z, each `[B, s, s, latent]`; the latter within [-30, 20]."""
        mean, logvar = mx.split(self.quant_conv(self.encoder(x)), 2, axis=-1)
        return mean, mx.clip(logvar, -30.0, 20.0)

    def decode(self, z: mx.array) -> mx.array:
        return self.decoder(self.post_quant_conv(z))

    def __call__(self, x: mx.array, noise: mx.array) -> tuple[mx.array, mx.array]:
        """Reconstruction, and KL(N(mean, var) || N(0, 1)) in nats a picture `[B]`; noise is the latents' shape."""
        mean, logvar = self.encode(x)
        divergence = 0.5 * (mx.square(mean) + mx.exp(logvar) - 1 - logvar).sum(axis=(1, 2, 3))
        return self.decode(mean + mx.exp(0.5 * logvar) * noise), divergence

    def latents(self, x: mx.array) -> mx.array:
        """The means."""
        return self.encode(x)[0]

    def pictures(self, z: mx.array) -> mx.array:
        return self.decode(z)


class VQVAE(Autoencoder):
    """The vector-quantised autoencoder. The codebook is moved by `codebook_update`, not by gradients."""

    kind = "vq-vae"

    def __init__(self, config: VQConfig):
        super().__init__(config, config.latent)
        if config.codes < 2:
            raise ValueError("codes must be 2 or more")
        self.codebook = mx.random.normal((config.codes, config.latent)) * 0.1
        self.counts = mx.zeros((config.codes,))
        self.sums = mx.zeros((config.codes, config.latent))

    def quantise(self, z: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """The nearest vectors to z `[B, s, s, c]`, their numbers `[B, s, s]`, how often each of the K was taken `[K]`
        and the sums of the z that took it `[K, c]`."""
        flat, book = mx.stop_gradient(z).reshape(-1, z.shape[-1]), mx.stop_gradient(self.codebook)
        # |z - e|^2 without |z|^2, which all codes share.
        distance = mx.square(book).sum(axis=1) - 2 * (flat @ book.T)
        index = mx.argmin(distance, axis=1)
        chosen = (index[:, None] == mx.arange(book.shape[0])).astype(flat.dtype)
        return book[index].reshape(z.shape), index.reshape(z.shape[:-1]), chosen.sum(axis=0), chosen.T @ flat

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Reconstruction, commitment |z - sg(e)|^2 a number `[B]`, and counts and sums as `quantise` gives them."""
        z = self.encoder(x)
        nearest, _, counts, sums = self.quantise(z)
        commitment = mx.square(z - nearest).mean(axis=(1, 2, 3))
        return self.decoder(z + mx.stop_gradient(nearest - z)), commitment, counts, sums

    def latents(self, x: mx.array) -> mx.array:
        """Before quantisation, so that a flow over them is over something continuous."""
        return self.encoder(x)

    def pictures(self, z: mx.array) -> mx.array:
        return self.decoder(self.quantise(z)[0])


def codebook_update(codebook: mx.array, counts: mx.array, sums: mx.array, new_counts: mx.array, new_sums: mx.array,
                    noise: mx.array, decay: float = 0.99, dead: float = 0.03) -> tuple[mx.array, mx.array, mx.array]:
    """Codebook `[K, c]`, counts `[K]` and sums `[K, c]` after a batch whose encodings gave new_counts and new_sums.

    N <- g N + (1 - g) n, m <- g m + (1 - g) sum z, e = m / N (van den Oord et al. 2017, appendix A.1). A code whose N
    is below `dead` times the mean is revived: the most used code gives it half of its share and a place beside its own
    (noise `[K, c]` standard normal), as in the splitting of Linde, Buzo & Gray 1980.
    """
    counts = decay * counts + (1 - decay) * new_counts
    sums = decay * sums + (1 - decay) * new_sums
    used = counts > 1e-6
    codebook = mx.where(used[:, None], sums / mx.maximum(counts, 1e-6)[:, None], codebook)
    order = mx.argsort(counts)
    half = counts.shape[0] // 2
    weak, strong = order[:half], order[::-1][:half]
    revive = (counts[weak] < dead * counts.mean()) & (counts[strong] > counts.mean())
    spread = mx.sqrt(mx.square(codebook[strong]).mean(axis=1, keepdims=True)) * 0.01 + 1e-4
    places = mx.where(revive[:, None], codebook[strong] + spread * noise[:half], codebook[weak])
    shares = mx.where(revive, 0.5 * counts[strong], counts[weak])
    kept = mx.where(revive, 0.5 * counts[strong], counts[strong])
    codebook[weak], counts[weak], counts[strong] = places, shares, kept
    return codebook, counts, codebook * counts[:, None]


def perplexity(counts) -> float:
    """exp of the entropy of how often the codes were used: 1 when one code does all, K when all are used alike."""
    import numpy as np

    share = np.asarray(counts, np.float64)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
