"""The wheel: all that a user gets who has no checkout."""

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import mlxflow
from mlxflow import paths

CHECKOUT = Path(mlxflow.__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not (CHECKOUT / "pyproject.toml").is_file(), reason="needs the checkout")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: hatchling is in the test extra, and a test should not need the network.
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
                           "--wheel-dir", folder, CHECKOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("mlxflow-*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's files alone, as an installer lays them out."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*")
            if f.is_file() and "__pycache__" not in f.parts and not f.name.startswith(".")}


def test_the_wheel_has_the_whole_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {f"mlxflow/{name}" for name in files_below(CHECKOUT / "mlxflow")}
    wanted |= {f"mlxflow/weights/{name}" for name in files_below(CHECKOUT / "weights")}
    wanted |= {f"mlxflow/twins/{name}" for name in files_below(CHECKOUT / "tests" / "parity" / "twins")}
    assert names == wanted


def test_the_wheel_has_weights_and_artwork(wheel):
    names = set(wheel.namelist())
    assert {f"mlxflow/weights/emoji/{name}" for name in ("model.safetensors", "config.json", "words.safetensors")} <= names
    assert wheel.getinfo("mlxflow/data/assets/noto-64.webp").file_size > 1_000_000


def test_the_wheel_carries_its_licences_and_version(wheel):
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    fields = Parser().parsestr(wheel.read(metadata).decode())
    assert fields["Version"] == mlxflow.__version__
    assert fields["License-Expression"] == "Apache-2.0"
    licences = metadata.replace("METADATA", "licenses/")
    assert b"Apache License" in wheel.read(licences + "LICENSE")
    assert wheel.read(licences + "NOTICE")


def test_the_package_alone_finds_its_weights_and_draws(python, installed, tmp_path):
    variables = {"PYTHONPATH": os.fspath(installed)}
    where = python("import mlxflow.paths, mlxflow.weights; print(mlxflow.paths.weights_dir())", **variables)
    assert where.stdout.strip() == str(installed / "mlxflow" / "weights"), where.stderr
    picture = tmp_path / "cat.png"
    done = python("-m", "mlxflow", "generate", "smiling cat", "--seed", "7", "-o", str(picture), **variables)
    assert done.returncode == 0, done.stderr

    from PIL import Image

    with Image.open(picture) as image:
        assert (image.size, image.mode) == ((64, 64), "RGBA")
        assert image.getchannel("A").getextrema()[1] == 255


def test_the_package_alone_finds_its_twins(python, installed):
    """Those of the wheel, though a checkout is there too."""
    done = python("from mlxflow.parity import twins; t = twins.load(); print(t.__file__); print(*sorted(t.KINDS))",
                  PYTHONPATH=os.fspath(installed))
    assert done.returncode == 0, done.stderr
    file, kinds = done.stdout.splitlines()
    assert file == str(installed / "mlxflow" / "twins" / "__init__.py") and "text-unet" in kinds


def test_a_checkout_finds_its_own_weights():
    assert paths.weights_dir() == CHECKOUT / "weights"


def test_every_extra_is_in_the_test_extra_or_needs_a_machine():
    """An extra that the test environment lacks is an extra that no test covers."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (own,) = [entry for entry in extras["test"] if entry.startswith("mlxflow[")]
    covered = set(own.removeprefix("mlxflow[").removesuffix("]").split(","))
    assert extras.keys() - covered == {"test", "cuda12", "cuda13"}
