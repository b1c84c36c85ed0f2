"""What all tests share: the runtime before any `import mlx`, and programs run as a user runs them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

# Float32 products are whole ones, on CUDA and the newest Apple chips too; read when MLX multiplies for the first time.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# A shell that runs us in the background has us ignore Ctrl-C, and our children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A test module may import MLX in its first line; the fast BLAS must be there before.
import mlxflow.runtime  # noqa: F401


@pytest.fixture
def python(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """python("code" or arguments, NAME=value, ...): a fresh interpreter, with these environment variables.

    A value of None removes the variable. Runs in an empty folder, so that nothing is found by chance.
    """

    def run(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess:
        if len(arguments) == 1:
            arguments = ("-c", *arguments)
        environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
        return subprocess.run([sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True,
                              text=True, check=False)

    return run


@pytest.fixture
def mlxflow_command(python) -> Callable[..., subprocess.CompletedProcess]:
    """mlxflow_command("info", "emoji", NAME=value, ...): the command line in a process of its own."""
    return lambda *arguments, **variables: python("-m", "mlxflow", *arguments, **variables)
