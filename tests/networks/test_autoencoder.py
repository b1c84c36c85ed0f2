import json

import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow.errors import MlxflowError
from mlxflow.interop.diffusers import FILE, from_diffusers, read_diffusers
from mlxflow.networks import build, describe
from mlxflow.networks.autoencoder import Down, codebook_update, perplexity
from mlxflow.runtime import mx

KL = {"kind": "kl-vae", "image_size": 16, "channels": 3, "latent": 2, "widths": [8, 16], "layers": 2, "groups": 4}
VQ = KL | {"kind": "vq-vae", "codes": 16}


@pytest.mark.parametrize("config", [KL, VQ], ids=["kl", "vq"])
def test_shapes_and_description(config):
    network = build(config)
    assert network.shape == (16, 16, 3) and network.latent_shape == (8, 8, 2)
    assert describe(build(describe(network))) == describe(network)
    x = mx.random.normal((3, 16, 16, 3), key=mx.random.key(0))
    z = network.latents(x)
    assert z.shape == (3, 8, 8, 2) and network.pictures(z).shape == x.shape


def test_down_is_the_strided_convolution():
    down = Down(5)
    x = mx.random.normal((2, 8, 6, 5), key=mx.random.key(0))
    want = mx.conv2d(mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]), down.conv.weight, stride=2) + down.conv.bias
    assert mx.allclose(down(x), want, atol=1e-5) and want.shape == (2, 4, 3, 5)


def test_kl_is_that_of_two_gaussians():
    network = build(KL)
    x = mx.random.normal((2, 16, 16, 3), key=mx.random.key(0))
    mean, logvar = (np.array(v, np.float64) for v in network.encode(x))
    noise = mx.random.normal((2, 8, 8, 2), key=mx.random.key(1))
    _, got = network(x, noise)
    # By sampling: E log q(z) - log p(z).
    z = mean + np.exp(logvar / 2) * np.random.default_rng(0).standard_normal((20_000, 1, *mean.shape[1:]))
    log = (-0.5 * (logvar + (z - mean) ** 2 / np.exp(logvar)) + 0.5 * z**2).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(got, log.mean(axis=0), rtol=0.02)


def test_codes_are_the_nearest_and_gradients_pass_straight_through():
    network = build(VQ)
    z = mx.random.normal((2, 8, 8, 2), key=mx.random.key(0)) * 0.2
    nearest, index, counts, sums = network.quantise(z)
    distance = np.linalg.norm(np.array(z)[..., None, :] - np.array(network.codebook), axis=-1)
    np.testing.assert_array_equal(index, distance.argmin(axis=-1))
    np.testing.assert_allclose(nearest, np.array(network.codebook)[np.array(index)])
    assert counts.sum().item() == 128
    np.testing.assert_allclose(sums.sum(axis=0), z.sum(axis=(0, 1, 2)), rtol=1e-4)
    x = mx.random.normal((2, 16, 16, 3), key=mx.random.key(0))

    def error(weights):
        network.update(weights)
        return mx.square(network(x)[0] - x).mean()

    gradient = dict(tree_flatten(mx.grad(error)(network.parameters())))
    assert mx.abs(gradient["encoder.conv_in.weight"]).max() > 0
    assert mx.abs(gradient["codebook"]).max() == 0


def test_dead_codes_are_revived_until_the_codebook_covers_the_data():
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((32, 3)).astype(np.float32) * 3
    codebook, counts, sums = mx.ones((64, 3)) * 40, mx.zeros((64,)), mx.zeros((64, 3))
    for step in range(400):
        z = mx.array(centres[generator.integers(0, 32, 256)] + 0.05 * generator.standard_normal((256, 3), dtype=np.float32))
        index = mx.argmin(mx.square(z[:, None] - codebook[None]).sum(-1), axis=1)
        chosen = (index[:, None] == mx.arange(64)).astype(mx.float32)
        noise = mx.random.normal((64, 3), key=mx.random.key(step))
        codebook, counts, sums = codebook_update(codebook, counts, sums, chosen.sum(0), chosen.T @ z, noise)
        mx.eval(codebook, counts, sums)
    distance = np.linalg.norm(centres[:, None] - np.array(codebook)[None], axis=-1).min(axis=1)
    assert distance.max() < 0.2
    assert perplexity(np.array(counts)) > 30 and counts.sum().item() == pytest.approx(256 * (1 - 0.99**400), rel=0.01)


def test_perplexity():
    assert perplexity([5, 0, 0]) == pytest.approx(1) and perplexity([2, 2, 2, 2]) == pytest.approx(4)


@pytest.fixture(scope="module")
def theirs():
    from diffusers import AutoencoderKL

    import torch

    torch.manual_seed(0)
    model = AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64, 64),
                          down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                          layers_per_block=2, norm_num_groups=8, sample_size=32).eval()
    for p in model.parameters():  # norms and biases begin at ones and zeros, which would hide a mistake
        torch.nn.init.normal_(p, 0.5 * (p.ndim == 1), 0.2 if p.ndim == 1 else p[0].numel() ** -0.5)
    return model


def test_diffusers_own_class_encodes_and_decodes_the_same(theirs, tmp_path):
    import torch

    theirs.save_pretrained(tmp_path)
    config, arrays = read_diffusers(tmp_path)
    network = build(config["model"])
    network.update(tree_unflatten(list(arrays.items())))
    assert config["scale"] == pytest.approx(0.18215)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype=np.float32)
    with torch.no_grad():
        posterior = theirs.encode(torch.tensor(x.transpose(0, 3, 1, 2))).latent_dist
        want = [posterior.mean, posterior.logvar, theirs.decode(posterior.mean).sample]
    mean, logvar = network.encode(mx.array(x))
    for got, expected in zip((mean, logvar, network.decode(mean)), want):
        expected = expected.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(np.array(got), expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_older_names_and_kernels_for_matrices_are_read_too(theirs):
    today = {n: mx.array(p.detach().numpy()) for n, p in theirs.named_parameters()}
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    older = {}
    for name, array in today.items():
        for new, old in names.items():
            if f".{new}." in name:
                name = name.replace(new, old)
                array = array[:, :, None, None] if array.ndim == 2 else array
        older[name] = array
    assert older.keys() != today.keys()
    want, got = from_diffusers(today), from_diffusers(older)
    assert want.keys() == got.keys() and all(mx.array_equal(want[n], got[n]) for n in want)


def test_folders_that_are_none_are_sentences(theirs, tmp_path):
    with pytest.raises(MlxflowError, match="no diffusers folder"):
        read_diffusers(tmp_path)
    theirs.save_pretrained(tmp_path)
    (tmp_path / FILE).rename(tmp_path / "other")
    with pytest.raises(MlxflowError, match="pickled"):
        read_diffusers(tmp_path)
    for change, says in (({"_class_name": "VQModel"}, "is a VQModel"), ({"act_fn": "mish"}, "act_fn")):
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / FILE).write_bytes(b"")
        (tmp_path / "x" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(MlxflowError, match=says):
            read_diffusers(tmp_path / "x")


def test_a_converted_model_is_saved_loaded_and_keeps_its_scale(theirs, tmp_path):
    from mlxflow import weights

    theirs.save_pretrained(tmp_path / "theirs")
    config, arrays = read_diffusers(tmp_path / "theirs")
    weights.save(tmp_path / "ours", arrays, config, dtype=mx.float32)
    model = weights.load(tmp_path / "ours")
    assert model.config["scale"] == config["scale"] and model.network.latent_shape == (8, 8, 4)
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]
