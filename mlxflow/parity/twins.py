"""Where the PyTorch twins are. They import PyTorch, which mlxflow itself does not need."""

import importlib.util
import sys
from types import ModuleType

from mlxflow.errors import MlxflowError
from mlxflow.paths import PACKAGE

NAME = "mlxflow.twins"


def load() -> ModuleType:
    """The package of twins: the wheel's, else the checkout's. Raises MlxflowError where PyTorch is missing.
    """
    if NAME in sys.modules:
        return sys.modules[NAME]
    if importlib.util.find_spec("torch") is None:
        raise MlxflowError("The comparison needs PyTorch: pip install torch.")
    folder = PACKAGE / "twins"
    if not folder.is_dir():
        folder = PACKAGE.parent / "tests" / "parity" / "twins"
    if not (folder / "__init__.py").is_file():
        raise MlxflowError(f"The PyTorch twins are missing: there is no {folder}.")
    spec = importlib.util.spec_from_file_location(NAME, folder / "__init__.py",
                                                  submodule_search_locations=[str(folder)])
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[NAME]
        raise
    return module
