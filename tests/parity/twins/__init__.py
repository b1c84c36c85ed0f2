"""PyTorch twins: the networks and the process of mlxflow again, with torch's own layers, from the equations.

    build({"kind": "text-unet", ...})        a module from the config that is stored beside weights

Nothing here imports mlxflow or MLX. Pictures and maps are `[B, C, H, W]`, tokens `[B, N, D]`. Parameters have
the names of the MLX network's (a list there is an `nn.ModuleList` here), so that state dicts fit by name;
only the axes of kernels differ: [out, in, h, w] here, [out, h, w, in] there. A velocity network has
`encode(*inputs)` -> condition, `predict(x, t, condition)`, and is itself called with (x, t, *inputs).
"""

from torch import nn

from . import common, optim, process
from .autoencoder import KLVAE, VQVAE
from .dit import DiT
from .label_unet import LabelUNet
from .mamba import Mamba
from .text_unet import TextUNet

__all__ = ["KINDS", "build", "common", "optim", "process"]

KINDS: dict[str, type[nn.Module]] = {"text-unet": TextUNet, "unet": LabelUNet, "dit": DiT, "mamba": Mamba,
                                     "kl-vae": KLVAE, "vq-vae": VQVAE}


def build(config: dict) -> nn.Module:
    """The twin of the network that a config describes with all its fields; KeyError for a kind that has none.
    """
    sizes = {name: value for name, value in config.items() if name != "kind"}
    return KINDS[config["kind"]](sizes)
