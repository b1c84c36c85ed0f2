import os
import pkgutil
import shutil
import sys

import pytest

import mlxflow
from mlxflow import runtime
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx

# Imports each module in a process of its own (a fork, as an interpreter would take a second) and prints its name
# when MLX came in before the runtime.
IMPORT_EACH = """
import importlib, os, sys
import mlxflow
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(name)
        if "mlx.core" in sys.modules:
            runtime = sys.modules.get("mlxflow.runtime")
            if runtime is None or "imported before" in runtime.blas().slow:
                print(name, flush=True)
        os._exit(0)
    if os.wait()[1] != 0:
        print(name, "cannot be imported", flush=True)
"""


@pytest.fixture
def device():
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def test_every_module_loads_the_blas_before_mlx(python):
    names = [m.name for m in pkgutil.walk_packages(mlxflow.__path__, "mlxflow.") if m.name != "mlxflow.__main__"]
    done = python("-c", IMPORT_EACH, *names, LD_PRELOAD=None)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_the_cpu_is_always_there_and_none_is_the_best(device):
    runtime.use_device("cpu")
    assert runtime.device() == "cpu"
    assert mx.default_device() == mx.Device(mx.cpu)
    runtime.use_device(None)
    accelerated = mx.metal.is_available() or mx.cuda.is_available()
    assert (runtime.device() != "cpu") == accelerated
    runtime.use_device(runtime.device())


@pytest.mark.parametrize("name", ["metal", "cuda", "tpu", ""])
def test_a_device_that_is_not_here_is_a_sentence(device, name):
    if name and getattr(mx, name, None) and getattr(mx, name).is_available():
        pytest.skip(f"{name} is here")
    before = mx.default_device()
    with pytest.raises(MlxflowError, match=f"'{name}'"):
        runtime.use_device(name)
    assert mx.default_device() == before


def test_the_environment_chooses_the_device(python):
    done = python("from mlxflow import runtime; print(runtime.device())", MLXFLOW_DEVICE="cpu")
    assert done.stdout == "cpu\n"
    assert "MlxflowError: There is no device 'tpu'" in python("import mlxflow.runtime", MLXFLOW_DEVICE="tpu").stderr


@pytest.mark.parametrize("variables, compiles", [({}, True), ({"MLX_DISABLE_COMPILE": "1"}, False),
                                                 ({"PATH": "/nonexistent"}, False)])
def test_compiles_says_whether_operations_are_fused(python, variables, compiles):
    if sys.platform != "linux" and "PATH" in variables:
        pytest.skip("how MLX looks for a compiler is known on Linux")
    if compiles and sys.platform == "linux" and not shutil.which("g++"):
        pytest.skip("no g++")
    done = python("from mlxflow import runtime; print(runtime.compiles())", MLXFLOW_DEVICE="cpu", **variables)
    assert done.stdout == f"{compiles}\n", done.stderr


def test_the_cache_folder_follows_the_xdg_specification(monkeypatch, tmp_path):
    from mlxflow.paths import cache_dir

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "mlxflow"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/path")
    assert cache_dir() == tmp_path / ".cache" / "mlxflow"
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "other"))
    assert cache_dir() == tmp_path / "other" / "mlxflow"
