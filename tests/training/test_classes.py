"""Classes, nothing, latents and autoencoders train by the loop and the rules of the emoji."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow import weights
from mlxflow.errors import MlxflowError
from mlxflow.networks import build
from mlxflow.runtime import mx
from mlxflow.training.dataset import open_labels
from mlxflow.training.objective import FlowMatching
from mlxflow.training.config import TrainConfig
from mlxflow.training.start import start
from mlxflow.training.state import checkpoints
from tests.training import tiny_classes as tiny

MODELS = {"dit": tiny.DIT, "mamba": tiny.MAMBA, "unet": tiny.UNET, "kl": tiny.KL, "vq": tiny.VQ}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.classes(tmp_path_factory.mktemp("data") / "classes")


@pytest.fixture(scope="module")
def autoencoder(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "kl"
    start(run, data=data, flags=tiny.SETTINGS | {"model": tiny.KL, "steps": 60, "learning_rate": 3e-3})
    return run


def arrays_of(run):
    return {f"{file.stem}/{name}": np.array(array) for file in checkpoints(run)[-1].glob("*.safetensors")
            for name, array in mx.load(str(file)).items()}


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same(a, b):
    left, right = arrays_of(a), arrays_of(b)
    assert left.keys() == right.keys() and len(left) > 20
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)


@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(data, tmp_path, kind):
    flags = tiny.SETTINGS | {"model": MODELS[kind], "shift": 1, "flip": 0.5}
    start(tmp_path / "whole", data=data, flags=flags | {"steps": 4})
    start(tmp_path / "parts", data=data, flags=flags | {"steps": 2})
    start(tmp_path / "parts", data=None, flags={"steps": 4}, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [line["loss"] for line in lines(tmp_path / "parts")]


@pytest.mark.parametrize("kind", MODELS)
def test_micro_batches_equal_the_big_batch(data, tmp_path, kind):
    # Noise is drawn for the whole batch and cut with it, so the parts see what the whole sees.
    for parts in (1, 4):
        start(tmp_path / str(parts), data=data, flags=tiny.SETTINGS | {"model": MODELS[kind], "accumulate": parts, "steps": 1})
    whole, cut = arrays_of(tmp_path / "1"), arrays_of(tmp_path / "4")
    for name in whole:
        # A tenth of the gradient. (AdamW would make a step of the rounding where the gradient is truly zero.)
        if name.startswith("optimizer/m."):
            np.testing.assert_allclose(cut[name], whole[name], atol=1e-6, err_msg=name)
    if kind in ("kl", "vq"):
        for a, b in zip(lines(tmp_path / "1"), lines(tmp_path / "4")):
            other = {"kl": "kl", "vq": "perplexity"}[kind]
            assert a["psnr"] == pytest.approx(b["psnr"], rel=1e-4) and a[other] == pytest.approx(b[other], rel=1e-3)


def test_training_tells_the_classes_apart_and_sampling_finds_them_again(data, tmp_path):
    from mlxflow.sampling.classes import ClassSampler
    from mlxflow.sampling.pipeline import Settings

    run = tmp_path / "run"
    start(run, data=data, flags=tiny.SETTINGS | {"model": tiny.UNET, "steps": 150, "learning_rate": 5e-3, "batch": 32,
                                                 "prediction": "data", "ema": 0.95, "log_every": 50})
    config = weights.read_config(weights.resolve(run))
    assert config["classes"] == ["blue", "green", "red"] and config["model"]["classes"] == 3
    sampler = ClassSampler.load(run)
    pictures = sampler.pictures([0, 1, 2] * 10, 30, 0, Settings(8, "heun", 2.0), batch=30)
    colours = np.array(list(tiny.COLOURS.values()))
    right = 0
    for i, picture in enumerate(pictures):
        pixels = picture[..., :3].reshape(-1, 3).astype(float)
        darkest = pixels[pixels.sum(axis=1).argsort()[:10]].mean(axis=0)
        right += np.linalg.norm(colours - darkest, axis=1).argmin() == i % 3
    assert right >= 20  # a blind one has 10


def test_pictures_without_classes_train_without_them(tmp_path):
    data = tiny.unlabelled(tmp_path / "plain")
    start(tmp_path / "run", data=data, flags=tiny.SETTINGS | {"model": tiny.DIT, "steps": 2, "sample_every": 2,
                                                              "validate_every": 2})
    config = weights.read_config(weights.resolve(tmp_path / "run"))
    assert "classes" not in config and config["model"]["classes"] == 0
    assert (tmp_path / "run" / "samples" / "step-00000002.png").exists()
    labelled = tiny.classes(tmp_path / "classes")
    start(tmp_path / "run2", data=labelled, flags=tiny.SETTINGS | {"model": tiny.DIT | {"classes": 0}, "steps": 1})
    assert weights.read_config(weights.resolve(tmp_path / "run2"))["model"]["classes"] == 0


def test_optimal_pairs_are_closer_and_refused_with_classes(data, tmp_path):
    plain = tiny.unlabelled(tmp_path / "plain")
    lengths = {}
    for coupling in ("independent", "ot"):
        made, _, (x1, x0, t) = objective(plain, coupling=coupling, model=tiny.DIT | {"classes": 0})
        lengths[coupling] = mx.square(x1 - x0).sum().item(), sorted(x0.sum((1, 2, 3)).tolist())
    assert lengths["ot"][0] < lengths["independent"][0] and lengths["ot"][1] == lengths["independent"][1]
    with pytest.raises(MlxflowError, match="without words and classes"):
        start(tmp_path / "run", data=data, flags=tiny.SETTINGS | {"model": tiny.DIT, "coupling": "ot", "steps": 1})
    assert not (tmp_path / "run").exists()


def test_latents_are_encoded_once_scaled_and_decoded_by_the_runs_own_autoencoder(data, autoencoder, tmp_path,
                                                                                  monkeypatch):
    from mlxflow import paths
    from mlxflow.sampling.classes import ClassSampler
    from mlxflow.sampling.pipeline import Settings
    from mlxflow.training import latents

    monkeypatch.setattr(paths, "cache_dir", lambda: tmp_path / "cache")
    flags = tiny.SETTINGS | {"model": tiny.LATENT_DIT, "autoencoder": str(autoencoder), "sigma_min": 1e-4}
    start(tmp_path / "whole", data=data, flags=flags | {"steps": 4, "sample_every": 4})
    (kept,) = (tmp_path / "cache" / "latents").iterdir()
    monkeypatch.setattr(latents, "encoded", None)  # it would fail if it were asked again
    dataset = latents.LatentDataset(data, autoencoder, None)
    assert dataset.train.images.std() == pytest.approx(1, abs=1e-4) and dataset.shape == (4, 4, 2)
    start(tmp_path / "parts", data=data, flags=flags | {"steps": 2})
    autoencoder.rename(autoencoder.with_name("away"))
    try:
        start(tmp_path / "parts", data=None, flags={"steps": 4, "workers": 1}, resume=True)
        assert_same(tmp_path / "whole", tmp_path / "parts")
        sampler = ClassSampler.load(tmp_path / "whole")
        drawn = next(sampler.draw([0, 2], 2, 0, Settings(2, "euler", 1.0)))
        assert drawn.values.shape == (2, 8, 8, 3) and sampler.scale == dataset.scale
    finally:
        autoencoder.with_name("away").rename(autoencoder)
    config = weights.read_config(weights.resolve(tmp_path / "whole"))
    assert config["process"]["sigma_min"] == 1e-4 and weights.path_of(config["process"]).sigma_min == 1e-4
    # What was encoded and decoded is what was there, as well as so small an autoencoder can.
    images = dataset.fixed["val"][0]
    assert kept.stat().st_size > images.size * 4
    (tmp_path / "whole" / "autoencoder.safetensors").unlink()
    with pytest.raises(MlxflowError, match="autoencoder of .* is missing"):
        weights.load(tmp_path / "whole")


def test_a_vq_vae_learns_its_codes_and_resets_nothing_else(data, tmp_path):
    start(tmp_path / "run", data=data, flags=tiny.SETTINGS | {"model": tiny.VQ, "steps": 80, "learning_rate": 3e-3,
                                                              "weight_decay": 1.0, "log_every": 20, "validate_every": 80,
                                                              "ema": 0.9})
    log = lines(tmp_path / "run")
    assert log[-1]["val"]["perplexity"] > 2 and log[-2]["psnr"] > log[0]["psnr"] + 3
    arrays = arrays_of(tmp_path / "run")
    # Moved by counting alone: as large as the encodings that they stand for, whatever the weight decay.
    np.testing.assert_array_equal(arrays["model/codebook"], arrays["ema/codebook"])
    np.testing.assert_allclose(arrays["model/counts"].sum(), 8 * 16 * (1 - 0.99**80), rtol=1e-3)


def objective(data, **settings):
    config = TrainConfig(**(tiny.SETTINGS | {"model": tiny.DIT | {"classes": 3}} | settings))
    dataset, _ = open_labels(data, config.model, (8, 8, 3))
    mx.random.seed(0)
    network = build(config.model)
    names = tree_flatten(network.parameters())
    arrays = {n: a + 0.1 * mx.random.normal(a.shape) for n, a in names}
    mx.eval(arrays)
    made = FlowMatching(config, network, dataset, 0, 1)
    return made, arrays, made.arrays(next(dataset.batches(config, 0, 1, 0)), 0)


def test_bfloat16_computes_in_halves_and_keeps_float32_weights_loss_and_gradients(data):
    results = []
    for precision in ("float32", "bfloat16"):
        made, arrays, batch = objective(data, precision=precision)
        (loss, sums), gradient = mx.value_and_grad(made.loss)(arrays, *batch)
        assert loss.dtype == mx.float32 and all(g.dtype == mx.float32 for g in gradient.values())
        results.append((loss.item(), gradient))
        seen = dict(tree_flatten(made.network.parameters()))["stem.weight"].dtype
        assert seen == {"float32": mx.float32, "bfloat16": mx.bfloat16}[precision]
    assert results[0][0] != results[1][0] and results[0][0] == pytest.approx(results[1][0], rel=0.02)
    for name, g in results[0][1].items():
        error = mx.linalg.norm(results[1][1][name] - g) / (mx.linalg.norm(g) + 1e-6)
        assert error.item() < 0.1, name


def test_recomputing_takes_less_memory_and_gives_the_same_run(data, tmp_path):
    flags = tiny.SETTINGS | {"model": tiny.DIT, "steps": 2}
    start(tmp_path / "kept", data=data, flags=flags)
    start(tmp_path / "again", data=data, flags=flags | {"recompute": True})
    kept, again = arrays_of(tmp_path / "kept"), arrays_of(tmp_path / "again")
    for name in kept:
        if name.startswith("model/"):
            np.testing.assert_allclose(again[name], kept[name], atol=1e-6, err_msg=name)

    def peak(recompute):
        mx.random.seed(0)
        network = build({"kind": "dit", "image_size": 32, "patch": 2, "channels": 3, "width": 32, "depth": 8, "heads": 4})
        network.recompute = recompute
        x, t = mx.random.normal((4, 32, 32, 3)), mx.linspace(0.1, 0.9, 4)

        def loss(arrays):
            network.update(tree_unflatten(list(arrays.items())))
            return mx.square(network(x, t) - x).mean()

        arrays = dict(tree_flatten(network.parameters()))
        mx.eval(arrays, x, t)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(mx.grad(loss)(arrays))
        return mx.get_peak_memory() - before

    assert peak(True) < 0.75 * peak(False)


def test_two_ranks_train_classes_and_codes_too(data, tmp_path):
    model = "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in tiny.VQ.items()) + "}"
    flags = [f"--set={n}={json.dumps(v)}" for n, v in tiny.SETTINGS.items()] + [f"--set=model={model}"]
    done = subprocess.run([sys.executable, "-m", "mlxflow", "train", "--ranks", "2", "--data", str(data), "-o",
                           str(tmp_path / "two"), "--steps", "1", *flags], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "latent space" in done.stdout
    start(tmp_path / "one", data=data, flags=tiny.SETTINGS | {"model": tiny.VQ, "steps": 1})
    two, one = arrays_of(tmp_path / "two"), arrays_of(tmp_path / "one")
    for name in one:
        if name.startswith("optimizer/m.") or name in ("model/codebook", "model/counts"):
            np.testing.assert_allclose(two[name], one[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("flags, says", [
    ({"model": tiny.DIT | {"classes": 7}}, "have 3 classes"),
    ({"model": tiny.DIT, "scale": 0.1}, "scale is for pictures with captions"),
    ({"model": tiny.DIT | {"width": 10}}, "describe no network: .*multiple of 4"),
    ({"model": tiny.DIT | {"colour": 1}}, "no field colour"),
    ({"model": {"kind": "dit", "preset": "XL"}}, "no preset 'XL'"),
    ({"model": tiny.UNET, "recompute": True}, "cannot recompute"),
    ({"model": tiny.KL, "precision": "bfloat16"}, "float32"),
    ({"model": tiny.DIT, "precision": "half"}, "precision must be"),
    ({"model": tiny.DIT, "sigma_min": 1.0}, "sigma_min must be"),
    ({"model": tiny.DIT, "sigma_min": 0.1, "path": "cosine"}, "does not take sigma_min"),
    ({"model": tiny.LATENT_DIT, "autoencoder": "nowhere"}, "no weights at nowhere"),
    ({"model": tiny.LATENT_DIT, "autoencoder": "x", "shift": 1}, "set shift and flip to 0"),
])
def test_what_does_not_fit_is_a_sentence_and_makes_no_run(data, tmp_path, flags, says):
    with pytest.raises(MlxflowError, match=says):
        start(tmp_path / "run", data=data, flags=tiny.SETTINGS | {"steps": 1} | flags)
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_must_be_one_and_fit(data, autoencoder, tmp_path):
    start(tmp_path / "dit", data=data, flags=tiny.SETTINGS | {"model": tiny.DIT, "steps": 1})
    for model, source, says in ((tiny.LATENT_DIT, tmp_path / "dit", "holds a dit, not an autoencoder"),
                                (tiny.DIT, autoencoder, "image_size to 4 and channels to 2")):
        with pytest.raises(MlxflowError, match=says):
            start(tmp_path / "run", data=data, flags=tiny.SETTINGS | {"model": model, "steps": 1,
                                                                      "autoencoder": str(source)})
