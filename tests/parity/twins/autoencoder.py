"""The KL-VAE (Kingma & Welling 2014) and the VQ-VAE (van den Oord et al. 2017) on one encoder and decoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import EPS, grid, tokens


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(nn.Module):
    """One head over all places."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        h = tokens(self.group_norm(x))
        h = self.to_out[0](F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h)))
        return x + grid(h, *x.shape[2:])


class Down(nn.Module):
    """Half the size: stride 2, one row and column of zeros after the last ones only (padding=1 would add four
    sides).
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Twice the size: every pixel four times, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    def __init__(self, inputs: int, outputs: int, layers: int, groups: int, resize: str | None):
        super().__init__()
        widths = [inputs, *[outputs] * layers]
        self.resnets = nn.ModuleList(Residual(a, b, groups) for a, b in zip(widths, widths[1:]))
        if resize:
            name, layer = {"down": ("downsamplers", Down), "up": ("upsamplers", Up)}[resize]
            setattr(self, name, nn.ModuleList([layer(outputs)]))

    def forward(self, x: Tensor) -> Tensor:
        for layers in self.children():
            for layer in layers:
                x = layer(x)
        return x


class Middle(nn.Module):
    def __init__(self, width: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(Residual(width, width, groups) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


def levels(widths: list[int], layers: int, groups: int, resize: str) -> nn.ModuleList:
    """A level for each width; all but the last one change the size."""
    before = [widths[0], *widths]
    return nn.ModuleList(Level(before[i], width, layers, groups, resize if i < len(widths) - 1 else None)
                         for i, width in enumerate(widths))


class Encoder(nn.Module):
    def __init__(self, sizes: dict, outputs: int):
        super().__init__()
        widths, groups = list(sizes["widths"]), sizes["groups"]
        self.conv_in = nn.Conv2d(sizes["channels"], widths[0], 3, padding=1)
        self.down_blocks = levels(widths, sizes["layers"], groups, "down")
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, sizes: dict):
        super().__init__()
        widths, groups = list(sizes["widths"])[::-1], sizes["groups"]
        self.conv_in = nn.Conv2d(sizes["latent"], widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups)
        self.up_blocks = levels(widths, sizes["layers"] + 1, groups, "up")
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], sizes["channels"], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class KLVAE(nn.Module):
    """(x `[B, C, S, S]`, noise `[B, c, s, s]`) -> reconstruction, KL(N(mean, var) || N(0, 1)) in nats `[B]`.
    """

    def __init__(self, sizes: dict):
        super().__init__()
        latent = sizes["latent"]
        self.encoder, self.decoder = Encoder(sizes, 2 * latent), Decoder(sizes)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def pictures(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encode(x)
        posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        divergence = torch.distributions.kl_divergence(posterior, prior).flatten(1).sum(1)
        return self.pictures(mean + posterior.stddev * noise), divergence

    def loss(self, x: Tensor, noise: Tensor, weight: float) -> Tensor:
        """Squared error a number, and the weighed KL a number of the picture."""
        made, divergence = self(x, noise)
        return F.mse_loss(made, x) + weight * divergence.mean() / x[0].numel()


class VQVAE(nn.Module):
    """x `[B, C, S, S]` -> reconstruction, |z - sg(e)|^2 a number `[B]`, and for each code how many z took it,
    their sum.
    """

    def __init__(self, sizes: dict):
        super().__init__()
        codes, latent = sizes["codes"], sizes["latent"]
        self.encoder, self.decoder = Encoder(sizes, latent), Decoder(sizes)
        for name, shape in {"codebook": (codes, latent), "counts": (codes,), "sums": (codes, latent)}.items():
            self.register_buffer(name, torch.zeros(shape))

    def nearest(self, z: Tensor) -> Tensor:
        """The number of the nearest code, for each place `[B, s s]`."""
        return torch.cdist(tokens(z).flatten(0, 1), self.codebook).argmin(1).view(len(z), -1)

    def pictures(self, z: Tensor) -> Tensor:
        return self.decoder(grid(self.codebook[self.nearest(z)], *z.shape[2:]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = self.encoder(x)
        index = self.nearest(z.detach())
        taken = F.one_hot(index.flatten(), len(self.codebook)).to(z.dtype)
        e = grid(self.codebook[index], *z.shape[2:])
        commitment = (z - e).square().mean(dim=(1, 2, 3))
        # The decoder sees e; its gradient goes to z as if it were z.
        made = self.decoder(e.detach() + z - z.detach())
        return made, commitment, taken.sum(0), taken.T @ tokens(z.detach()).flatten(0, 1)

    def loss(self, x: Tensor, weight: float) -> Tensor:
        made, commitment, _, _ = self(x)
        return F.mse_loss(made, x) + weight * commitment.mean()

    @torch.no_grad()
    def follow(self, x: Tensor, noise: Tensor, decay: float = 0.99, dead: float = 0.03) -> None:
        """The codebook's own learning: each code becomes the running mean of the z that took it.

        A code of less than `dead` of the mean use is put beside a much used one, of whose use it takes half.
        """
        _, _, counts, sums = self(x)
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        used = self.counts > 1e-6
        self.codebook[used] = self.sums[used] / self.counts[used, None]
        order, mean = self.counts.argsort(), self.counts.mean()
        for i in range(len(order) // 2):
            weak, strong = order[i], order[-1 - i]
            if self.counts[weak] < dead * mean and self.counts[strong] > mean:
                spread = 0.01 * self.codebook[strong].square().mean().sqrt() + 1e-4
                self.codebook[weak] = self.codebook[strong] + spread * noise[i]
                self.counts[weak] = self.counts[strong] = self.counts[strong] / 2
        self.sums.copy_(self.codebook * self.counts[:, None])
