"""`mlxflow parity`: its table, its exit code, and what it says without PyTorch."""

import json

import pytest

from tests.sampling.tiny import weights_folder

# Runs `mlxflow` in an interpreter that cannot find PyTorch.
WITHOUT_TORCH = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else real(name, *rest)
sys.argv = ["mlxflow", "parity", {folder!r}]
from mlxflow.cli.main import main
main()
"""


def test_a_table_and_a_file(mlxflow_command, tmp_path):
    pytest.importorskip("torch")
    folder, file = weights_folder(tmp_path / "tiny"), tmp_path / "parity.json"
    done = mlxflow_command("parity", str(folder), "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["stage", "max", "abs", "max", "rel", "verdict"]
    assert all(line.endswith(" ok") for line in lines[1:-1]) and "stages agree" in lines[-1]
    assert json.loads(file.read_text())["ok"] and done.stderr == ""


def test_without_pytorch_it_says_what_to_install(python, tmp_path):
    done = python(WITHOUT_TORCH.format(folder=str(weights_folder(tmp_path / "tiny"))))
    assert done.returncode == 2
    assert done.stderr == "mlxflow: The comparison needs PyTorch: pip install torch.\n"
