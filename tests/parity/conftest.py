"""The pairs that the suite compares: a small network of each kind with its twin, both with the same random
weights.
"""

import functools

import pytest

from mlxflow.networks import build
from mlxflow.parity.pair import Pair, randomise
from mlxflow.runtime import mx
from tests.parity.networks import CONFIGS

QUIET = 0.1
"""The scale of matrices with which the inputs of norms are small, so that their eps shows."""


@functools.cache
def made(name: str, scale: float) -> Pair:
    import torch

    torch.set_num_threads(1)  # small products: threads would wait for each other
    mx.random.seed(0)
    return Pair(randomise(build(CONFIGS[name]), seed=0, scale=scale))


@pytest.fixture
def pair_of():
    """pair_of("dit"), pair_of("dit", QUIET): a Pair, made once. Tests leave its weights as they were."""
    return lambda name, scale=1.0: made(name, scale)
