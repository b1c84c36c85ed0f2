"""Stable Diffusion's autoencoder from a local `diffusers` folder, such as sd-vae-ft-mse.

    config.json                              sizes, as AutoencoderKL stores them
    diffusion_pytorch_model.safetensors      the same names as ours; kernels are [out, in, h, w], here [out, h, w, in]

Older files call the attention's matrices query, key, value and proj_attn, and store them as 1x1 kernels.
"""

import json
from pathlib import Path

import numpy as np

from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.weights import read_arrays

FILE = "diffusion_pytorch_model.safetensors"
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def model_config(config: dict) -> dict:
    """The config of our KL-VAE from that of an AutoencoderKL; raises MlxflowError for one that it does not cover."""
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise MlxflowError(f"This is a {config['_class_name']}, not an AutoencoderKL.")
    blocks = config.get("down_block_types", ["DownEncoderBlock2D"])
    wanted = {"act_fn": "silu", "mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True}
    other = [n for n, v in wanted.items() if config.get(n, v) != v]
    if set(blocks) != {"DownEncoderBlock2D"} or config.get("in_channels", 3) != config.get("out_channels", 3) or other:
        raise MlxflowError(f"This AutoencoderKL has parts that mlxflow's has not: {', '.join(other) or 'its blocks'}.")
    return {"kind": "kl-vae", "image_size": config.get("sample_size", 32), "channels": config.get("in_channels", 3),
            "latent": config.get("latent_channels", 4), "widths": list(config.get("block_out_channels", [64])),
            "layers": config.get("layers_per_block", 1), "groups": config.get("norm_num_groups", 32)}


def from_diffusers(arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    """An AutoencoderKL's arrays by name, with our order of axes and today's names."""
    made = {}
    for name, array in arrays.items():
        parts = name.split(".")
        if "attentions" in parts:
            parts = [_OLD.get(part, part) for part in parts]
            if array.ndim == 4:
                array = array.reshape(array.shape[:2])
        elif array.ndim == 4:
            array = mx.contiguous(array.transpose(0, 2, 3, 1))
        made[".".join(parts)] = array
    return made


def read_diffusers(folder: Path) -> tuple[dict, dict[str, mx.array]]:
    """(weights config, arrays) of the AutoencoderKL in `folder`, checked against our network by name and shape."""
    from mlxflow.networks import build, describe
    from mlxflow.weights import check_arrays

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MlxflowError(f"{folder} is no diffusers folder: its config.json cannot be read ({error}).") from None
    if not (folder / FILE).is_file():
        raise MlxflowError(f"{folder} holds no {FILE}: pickled .bin files are not read, save the model as safetensors.")
    network = build(model_config(config))
    arrays = from_diffusers(read_arrays(folder / FILE))
    check_arrays(arrays, network, folder / FILE)
    # The latents' scale, 1 / standard deviation, as the model that was trained on them used it.
    scale = float(np.float32(config.get("scaling_factor", 0.18215)))
    return {"format": 1, "model": describe(network), "process": {}, "scale": scale}, arrays
