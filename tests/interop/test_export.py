"""Exported functions: imported again, here and by a C++ program, they draw what the package draws."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxflow import weights
from mlxflow.errors import MlxflowError
from mlxflow.interop import convert
from mlxflow.interop.export import BATCHES, export
from mlxflow.networks import build
from mlxflow.runtime import mx
from mlxflow.sampling.pipeline import GUIDE_UNTIL, SHORTCUT, Pipeline, sample

from tests.interop.networks import CONFIGS, model_config, random_arrays
from tests.sampling import tiny

FLOWS = [kind for kind in CONFIGS if not kind.endswith("vae")]


def source(tmp_path, kind: str, dtype=mx.float32, **more) -> convert.Source:
    config = model_config(kind) | more
    arrays = random_arrays(build(config["model"]))
    weights.save(tmp_path / kind, arrays, config, tiny.WORDS if "words" in config else None, dtype=dtype)
    return convert.read(tmp_path / kind)


def inputs(network, batch: int, seed: int = 0) -> tuple[mx.array, ...]:
    """What the network is told besides x and t: half of the words are there."""
    if network.kind == "text-unet":
        text = network.config.text
        vectors = mx.random.normal((batch, text.length, text.word_dim), key=mx.random.key(seed))
        return vectors, mx.broadcast_to(mx.arange(text.length) < 3, (batch, text.length))
    return (mx.arange(batch, dtype=mx.int32) % 3,) if network.config.classes else ()


def drawn(step, times, noise, *rest):
    x = noise
    for t, t_next in zip(times, times[1:]):
        x, estimate = step(x, mx.array(t), mx.array(t_next), *rest)
        mx.eval(x)
    assert mx.array_equal(x, estimate)
    return x


@pytest.mark.parametrize("kind", FLOWS)
def test_the_imported_step_draws_what_the_sampler_draws_for_every_batch_size(tmp_path, kind):
    model = source(tmp_path, kind).model()
    file = export(model, tmp_path / "step.mlxfn")
    step, about = mx.import_function(str(file), return_metadata=True)
    about = json.loads(about)
    network, times = model.network, about["times"]
    few = kind.endswith("few steps")
    assert about["config"] == model.config and about["batches"] == list(BATCHES) and about["noise"] == 1
    assert len(times) == (5 if few else 17)
    for batch in BATCHES:
        noise, told = mx.random.normal((batch, *network.shape), key=mx.random.key(batch)), inputs(network, batch)
        guidance = 2.5 if told and not few else 1.0
        given = [*told, *([mx.array(guidance)] if guidance > 1 else [])]
        assert len(about["functions"]["step"]) == 3 + len(given)
        got = drawn(step, times, noise, *given)
        condition = network.encode(*told)
        null = network.encode(*network.dropped(told, mx.zeros((batch,), dtype=mx.bool_)))
        want = sample(model.velocity(compiled=False), condition, null, noise, *((4, SHORTCUT) if few else (16, "heun")),
                      guidance, guide_until=GUIDE_UNTIL if kind.startswith("text") else 1.0, last=0.05)
        np.testing.assert_allclose(np.array(got), np.array(want), atol=2e-4 * float(mx.abs(want).max()))


def test_a_prompt_draws_the_same_picture_as_generate(tmp_path):
    from mlxflow.data.images import unpremultiply

    tiny.weights_folder(tmp_path / "w")
    pipeline = Pipeline.load(tmp_path / "w")
    file = export(convert.read(tmp_path / "w").model(), tmp_path / "step.mlxfn")
    step, about = mx.import_function(str(file), return_metadata=True)
    want = np.asarray(pipeline.generate("red heart", seed=3)[0], int)
    noise = mx.random.normal((1, 16, 16, 4), key=mx.random.split(mx.random.key(3))[0])
    words = map(mx.array, pipeline.words.encode_batch(["red heart"], pipeline.length))
    got = unpremultiply(np.array(drawn(step, json.loads(about)["times"], noise, *words, mx.array(3.0))))[0]
    # Another order of sums: a colour on the edge between two of 256 may fall to the other side, and the colour of
    # a nearly transparent pixel is divided by little.
    assert np.abs(got.astype(int) - want)[want[..., 3] > 25].max() <= 2


def test_the_weights_stand_in_the_file_once_and_in_their_type(tmp_path):
    config = {"format": 1, "model": {"kind": "dit", "image_size": 8, "width": 256, "depth": 2, "heads": 4},
              "process": {"path": "condot", "prediction": "velocity", "floor": 0.05}}
    arrays = random_arrays(build(config["model"]), scale=0.02)
    weights.save(tmp_path / "w", arrays, config, dtype=mx.float32)
    read = convert.read(tmp_path / "w")
    for dtype, width in (("float32", 4), ("float16", 2)):
        size = export(convert.typed(read, dtype).model(), tmp_path / f"{dtype}.mlxfn").stat().st_size
        stored = width * sum(array.size for array in arrays.values())
        assert stored < size < 1.05 * stored
        step = mx.import_function(str(tmp_path / f"{dtype}.mlxfn"))
        x, _ = step(mx.ones((1, 8, 8, 3)), mx.array(0.25), mx.array(0.5))
        assert x.dtype == mx.float32


def test_float16_weights_compute_in_float32(tmp_path):
    model = source(tmp_path, "text-unet", dtype=mx.float16).model()
    step = mx.import_function(str(export(model, tmp_path / "a.mlxfn")))
    wide = weights.load(tmp_path / "text-unet", dtype=mx.float32)
    x, told = mx.random.normal((1, *wide.network.shape), key=mx.random.key(0)), inputs(wide.network, 1)
    _, estimate = step(x, mx.array(0.25), mx.array(1.0), *told, mx.array(1.0))
    velocity = wide.velocity(compiled=False)(x, mx.array([0.25]), wide.network.encode(*told))
    np.testing.assert_allclose(np.array(estimate), np.array(x + 0.75 * velocity), atol=1e-4)


def test_quantised_weights_are_exported_as_they_are(tmp_path):
    config = {"format": 1, "model": {"kind": "dit", "image_size": 8, "width": 64, "depth": 1, "heads": 2},
              "process": {"path": "condot", "prediction": "velocity", "floor": 0.05}}
    weights.save(tmp_path / "w", random_arrays(build(config["model"])), config, dtype=mx.float32)
    read = convert.read(tmp_path / "w")
    plain, packed = (export(read.model(bits), tmp_path / f"{bits}.mlxfn").stat().st_size for bits in (None, 8))
    assert packed < 0.6 * plain  # the graphs of three batch sizes are in both
    convert.write_weights(read, tmp_path / "q", quantise=8)
    quantised = weights.load(tmp_path / "q")
    x = mx.random.normal((1, 8, 8, 3), key=mx.random.key(0))
    _, estimate = mx.import_function(str(tmp_path / "8.mlxfn"))(x, mx.array(0.25), mx.array(0.5))
    want = x + 0.75 * quantised.velocity(compiled=False)(x, mx.array([0.25]), ())
    np.testing.assert_allclose(np.array(estimate), np.array(want), atol=1e-4)


@pytest.mark.parametrize("kind", ["kl-vae", "vq-vae"])
def test_an_autoencoder_gives_its_decoder(tmp_path, kind):
    model = source(tmp_path, kind, scale=0.5).model()
    decode = mx.import_function(str(export(model, tmp_path / "decode.mlxfn")))
    for batch in BATCHES:
        z = mx.random.normal((batch, *model.network.latent_shape), key=mx.random.key(batch))
        want = model.network.pictures(z / 0.5)
        np.testing.assert_allclose(np.array(decode(z)[0]), np.array(want), atol=1e-5 * float(mx.abs(want).max()) + 1e-5)


def test_a_latent_model_has_the_step_and_the_decoder(tmp_path):
    auto = source(tmp_path, "kl-vae")
    config = model_config("dit") | {"autoencoder": {"sha256": weights.file_sha256(auto.file), "scale": 2.0}}
    config["model"] |= {"image_size": 2, "patch": 1}
    weights.save(tmp_path / "latent", random_arrays(build(config["model"])), config, autoencoder=auto.file, dtype=None)
    function, about = mx.import_function(
        str(export(convert.read(tmp_path / "latent").model(), tmp_path / "a.mlxfn")), return_metadata=True)
    assert json.loads(about)["functions"] == {"step": ["x", "t", "t_next", "label", "guidance"], "decode": ["z"]}
    z = mx.random.normal((4, 2, 2, 3), key=mx.random.key(0))
    x, _ = function(z, mx.array(0.0), mx.array(0.1), mx.arange(4, dtype=mx.int32) % 3, mx.array(2.0))
    assert x.shape == z.shape
    want = auto.model().network.pictures(z / 2.0)
    np.testing.assert_allclose(np.array(function(z)[0]), np.array(want), atol=1e-5 * float(mx.abs(want).max()) + 1e-5)


def test_another_batch_size_is_refused_by_mlx_with_the_ones_that_there_are(tmp_path):
    step = mx.import_function(str(export(source(tmp_path, "mamba").model(), tmp_path / "a.mlxfn")))
    with pytest.raises(ValueError, match="No imported function found"):
        step(mx.zeros((3, 8, 8, 3)), mx.array(0.0), mx.array(0.1))


def test_targets(tmp_path):
    model = source(tmp_path, "mamba").model()
    with pytest.raises(MlxflowError, match="is called .mlxfn, not a.bin"):
        export(model, tmp_path / "a.bin")
    file = export(model, tmp_path / "a.mlxfn")
    before = file.read_bytes()
    with pytest.raises(MlxflowError, match="add --force"):
        export(model, file)
    assert file.read_bytes() == before
    export(model, file, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mlxfn", "mamba"]


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_full_disk_leaves_nothing_half_written(tmp_path, python):
    source(tmp_path, "dit")
    done = python(f"""
import resource
from pathlib import Path
from mlxflow.errors import MlxflowError
from mlxflow.interop import convert
from mlxflow.interop.export import export
model = convert.read({str(tmp_path / "dit")!r}).model()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the disk takes no more than this
try:
    export(model, Path({str(tmp_path / "a.mlxfn")!r}))
except MlxflowError as error:
    print(error)
""")
    assert "could not be written" in done.stdout, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dit"]


CPP = r"""
#include <cstdio>
#include <fstream>
#include <vector>
#include "mlx/mlx.h"

namespace mx = mlx::core;

mx::array floats(std::ifstream& in, mx::Shape shape) {
  int count = 1;
  for (int side : shape) count *= side;
  std::vector<float> values(count);
  in.read(reinterpret_cast<char*>(values.data()), count * sizeof(float));
  return mx::array(values.begin(), std::move(shape));
}

// step.mlxfn times.bin (float32: 17 times, x, vectors, mask) -> out.bin
int main(int, char** argv) {
  std::ifstream in(argv[2], std::ios::binary);
  auto times = floats(in, {17});
  auto x = floats(in, {1, 16, 16, 4});
  auto vectors = floats(in, {1, 6, 128});
  auto mask = mx::astype(floats(in, {1, 6}), mx::bool_);
  auto guidance = mx::array(3.0f);

  auto step = mx::import_function(argv[1]);
  for (int i = 0; i < 16; ++i) {
    auto t = mx::take(times, i), t_next = mx::take(times, i + 1);
    x = step({x, t, t_next, vectors, mask, guidance})[0];
    mx::eval(x);
  }
  std::ofstream(argv[3], std::ios::binary).write(x.data<char>(), x.nbytes());
}
"""


@pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="needs g++ and MLX's headers")
def test_a_program_in_cpp_draws_the_same(tmp_path):
    import mlx.core

    package = Path(mlx.core.__file__).parent
    if not (package / "include" / "mlx" / "mlx.h").is_file():
        pytest.skip("this MLX came without headers")
    tiny.weights_folder(tmp_path / "w")
    pipeline = Pipeline.load(tmp_path / "w")
    file = export(convert.read(tmp_path / "w").model(), tmp_path / "step.mlxfn")
    step, about = mx.import_function(str(file), return_metadata=True)
    times = json.loads(about)["times"]
    noise = np.random.default_rng(0).standard_normal((1, 16, 16, 4), dtype=np.float32)
    vectors, mask = pipeline.words.encode_batch(["red heart"], pipeline.length)
    (tmp_path / "main.cpp").write_text(CPP)
    (tmp_path / "in.bin").write_bytes(struct.pack("<17f", *times) + noise.tobytes() + vectors.tobytes()
                                      + mask.astype(np.float32).tobytes())
    built = subprocess.run(["g++", "-std=c++20", "-O0", "main.cpp", "-o", "main", f"-I{package / 'include'}",
                            f"-L{package / 'lib'}", "-lmlx", f"-Wl,-rpath,{package / 'lib'}"], cwd=tmp_path,
                           capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(["./main", "step.mlxfn", "in.bin", "out.bin"], cwd=tmp_path, capture_output=True, text=True,
                         check=False, env=os.environ)
    assert ran.returncode == 0, ran.stderr
    got = np.frombuffer((tmp_path / "out.bin").read_bytes(), np.float32).reshape(1, 16, 16, 4)
    want = np.array(drawn(step, times, mx.array(noise), mx.array(vectors), mx.array(mask), mx.array(3.0)))
    np.testing.assert_allclose(got, want, atol=1e-3)
