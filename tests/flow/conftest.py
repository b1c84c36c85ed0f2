"""The flow's proofs need float64, which MLX has on the CPU only."""

import pytest

from mlxflow.runtime import mx


@pytest.fixture(autouse=True)
def on_cpu():
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)
