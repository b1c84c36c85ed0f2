"""`mlxflow convert` as a user runs it."""

import pytest
import torch

from mlxflow import weights
from mlxflow.interop.torch import to_torch
from mlxflow.networks import build
from mlxflow.runtime import mx

from tests.sampling import tiny

# Wide enough that MLX has something to quantise.
UNET = {**tiny.UNET, "widths": [64, 64, 64], "heads_dim": 16}
CONFIG = tiny.config() | {"model": {**tiny.config()["model"], "unet": UNET}}


@pytest.fixture
def folder(tmp_path):
    from tests.interop.networks import random_arrays

    weights.save(tmp_path / "w", random_arrays(build(CONFIG["model"]), scale=0.05), CONFIG, tiny.WORDS, dtype=mx.float32)
    return tmp_path / "w"


def test_to_torch_and_back(mlxflow_command, folder, tmp_path):
    done = mlxflow_command("convert", "w", "a.pt", "--to", "torch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "a.pt" and "words.safetensors belongs to these weights" in done.stderr
    done = mlxflow_command("convert", "a.pt", "back")
    assert done.returncode == 0, done.stderr
    assert "a.pt holds the weights in 'state_dict'" in done.stderr
    one, two = (weights.read_arrays(tmp_path / name / "model.safetensors") for name in ("w", "back"))
    assert one.keys() == two.keys() and all(mx.array_equal(one[n], two[n]) for n in one)
    done = mlxflow_command("convert", "a.pt", "back")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "mlxflow: back already holds weights: add --force to replace them."


def test_a_bare_checkpoint_like_other_weights_in_half_the_size(mlxflow_command, folder, tmp_path):
    arrays = weights.read_arrays(folder / "model.safetensors")
    state = {n: torch.from_numpy(a) for n, a in to_torch(build(CONFIG["model"]), arrays).items()}
    torch.save({"model": {n: 2 * a for n, a in state.items()}, "ema": {f"module.{n}": a for n, a in state.items()}},
               tmp_path / "b.pth")
    done = mlxflow_command("convert", "b.pth", "half", "--like", "w", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    assert "b.pth holds the averaged weights, 'ema'." in done.stderr
    made = weights.read_arrays(tmp_path / "half" / "model.safetensors")
    assert all(mx.array_equal(made[n], arrays[n].astype(mx.float16)) for n in arrays)
    done = mlxflow_command("generate", "red heart", "--weights", "half", "--steps", "2", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).is_file()


def test_quantised_weights_say_what_they_cost_and_generate(mlxflow_command, folder, tmp_path):
    from tests.training.tiny import pictures

    pictures(tmp_path / "data")
    done = mlxflow_command("convert", "w", "q", "--quantize", "8", "--data", "data", "--limit", "3")
    assert done.returncode == 0, done.stderr
    source, made, share, head, loss, first, fifth, last = done.stdout.splitlines()
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size / 1e6 for name in ("w", "q")]
    assert (source, made) == tuple(f"{n}/model.safetensors: {size:.2f} MB" for n, size in zip(("w", "q"), sizes))
    assert sizes[1] < sizes[0] and share.endswith("tables are not") and 0 < int(share.split("%")[0]) < 100
    before, after = map(float, loss.removeprefix("loss, 2 of val").split())
    assert 0 < abs(before - after) < 0.05 * before
    assert first.startswith("R@1, 3 names") and fifth.startswith("R@5, 3 names") and last == "q"
    done = mlxflow_command("generate", "red heart", "--weights", "q", "--steps", "2", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).is_file()
    shown = dict(line.split(maxsplit=1) for line in mlxflow_command("info", "q").stdout.splitlines() if line[0] == " ")
    plain = dict(line.split(maxsplit=1) for line in mlxflow_command("info", "w").stdout.splitlines() if line[0] == " ")
    assert shown["together"] == plain["together"] and shown["quantised"] == "matrices to 8 bits, in groups of 32"


def test_a_function_for_other_programs(mlxflow_command, folder, tmp_path):
    done = mlxflow_command("convert", "w", "step.mlxfn", "--to", "mlxfn")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "step.mlxfn"
    step = mx.import_function(str(tmp_path / "step.mlxfn"))
    x, estimate = step(mx.zeros((4, 16, 16, 4)), mx.array(0.0), mx.array(1.0), mx.zeros((4, 6, 128)),
                       mx.zeros((4, 6), dtype=mx.bool_), mx.array(3.0))
    assert mx.array_equal(x, estimate)


def test_an_autoencoder_of_diffusers(mlxflow_command, tmp_path):
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16), norm_num_groups=4,
                           down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                           layers_per_block=1, sample_size=16).eval()
    theirs.save_pretrained(tmp_path / "sd")
    done = mlxflow_command("convert", "sd", "vae")
    assert done.returncode == 0, done.stderr
    assert "AutoencoderKL whose latents are scaled by 0.18215" in done.stderr
    model = weights.load(tmp_path / "vae")
    assert model.network.kind == "kl-vae" and model.network.shape == (16, 16, 3)
    # ... and back: torch's own class takes the state dict.
    done = mlxflow_command("convert", "vae", "vae.pt", "--to", "torch")
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "vae.pt", weights_only=True)["state_dict"]
    want = theirs.state_dict()
    assert state.keys() == want.keys() and all(torch.equal(state[n], want[n]) for n in want)


@pytest.mark.parametrize("arguments, says", [
    (["nothing", "x"], "There are no weights at nothing."),
    (["nothing.pt", "x"], "There are no weights at nothing.pt."),
    (["w", "a.pt"], "names a file: weights are a folder (for a PyTorch file add --to torch)"),
    (["w", "a.bin", "--to", "torch"], "A PyTorch file is called .pt, .pth or .safetensors, not a.bin."),
    (["w", "a.pt", "--to", "torch", "--quantize", "8"], "PyTorch has no form of MLX's quantised matrices"),
    (["w", "x", "--data", "y"], "--data is for measuring what --quantize costs"),
    (["w", "x", "--quantize", "8", "--limit", "0"], "--limit must be 1 or more, not 0."),
    (["w", "x", "--quantize", "8", "--data", "nowhere"], "nowhere"),
    (["w", "x", "--like", "w"], "w has a config of its own: leave --config and --like out."),
    (["w", "step.bin", "--to", "mlxfn"], "An exported function is called .mlxfn, not step.bin."),
])
def test_mistakes_are_a_sentence_and_exit_2(mlxflow_command, folder, tmp_path, arguments, says):
    done = mlxflow_command("convert", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("mlxflow: ") and says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
