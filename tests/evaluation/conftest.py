import pytest

from mlxflow.sampling.pipeline import Pipeline
from tests.sampling import tiny


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Pipeline:
    return Pipeline.load(tiny.weights_folder(tmp_path_factory.mktemp("weights") / "tiny"))
