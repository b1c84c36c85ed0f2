"""The shipped weights against tensors that the PyTorch twin made of them; PyTorch is not needed here."""

import numpy as np
import pytest

from mlxflow import paths, weights
from mlxflow.runtime import mx
from tests.parity.golden import FOLDER, Golden, shipped

SHIPPED = pytest.mark.parametrize("name", shipped())


@SHIPPED
def test_the_golden_tensors_are_of_these_weights(name):
    assert (FOLDER / f"{name}.npz").is_file(), f"there are no golden tensors of {name}: run `make golden`"
    made_of, now = Golden(name).about["weights"], weights.file_sha256(paths.weights_dir() / name / weights.MODEL)
    assert made_of == now, (f"the golden tensors of {name} were made of other weights ({made_of[:12]}, now {now[:12]}): "
                            "run `make golden`")


@pytest.fixture(scope="module", params=shipped())
def golden(request):
    """(golden tensors, ours) of a shipped model."""
    file = paths.weights_dir() / request.param / weights.MODEL
    if not (FOLDER / f"{request.param}.npz").is_file() or Golden(request.param).about["weights"] != weights.file_sha256(file):
        pytest.skip("the golden tensors are of other weights: run `make golden`")
    golden = Golden(request.param)
    return golden, golden.ours(weights.load(file, dtype=mx.float32))


def test_outputs_and_pictures_are_the_twins(golden):
    golden, ours = golden
    errors = {name: np.abs(np.squeeze(ours[name]) - np.squeeze(value)).max() for name, value in golden.outputs.items()}
    wrong = [f"{name}: {error:.1e} of {golden.tolerances[name]:.1e}" for name, error in errors.items()
             if not error <= golden.tolerances[name]]
    assert not wrong, "\n".join(wrong)


def test_the_tensors_say_something(golden):
    """Pictures, and outputs far above their tolerances: another model's would not pass."""
    golden, _ = golden
    assert "pictures" in golden.outputs and len(golden.outputs) > 3
    for name, value in golden.outputs.items():
        assert np.abs(value).max() > 100 * golden.tolerances[name], name
    assert not np.allclose(golden.outputs["pictures"][0], golden.outputs["pictures"][1], atol=0.1)


def test_the_files_are_small():
    assert sum(file.stat().st_size for file in FOLDER.glob("*.npz")) < 700_000 * max(1, len(shipped()))
