import importlib
import inspect
import json
import signal
import subprocess
import sys
import time

import pytest

from mlxflow import __version__
from mlxflow.cli.main import COMMANDS

# Runs `mlxflow boom` with a command that is defined here.
BOOM = """
import sys, types
from mlxflow.cli import main
def boom():
    {body}
module = types.ModuleType("mlxflow.cli.boom")
module.boom = boom
sys.modules["mlxflow.cli.boom"] = module
main.COMMANDS["boom"] = "Fails."
sys.argv = ["mlxflow", "boom"]
main.main()
"""


def words(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_and_version_import_nothing_heavy(python, option):
    code = f"""
import json, sys
from mlxflow.cli.main import main
sys.argv = ["mlxflow", {option!r}]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    done = python(code)
    assert done.returncode == 0
    heavy = {"mlx", "mlx.core", "numpy", "PIL", "torch", "scipy", "mlxflow.runtime"}
    assert not heavy & set(json.loads(done.stderr))
    if option == "--version":
        assert done.stdout == f"mlxflow {__version__}\n"
    else:
        assert all(name in done.stdout and line in words(done.stdout) for name, line in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_its_module_is_light(python, name):
    module = importlib.import_module(f"mlxflow.cli.{name}")
    if not hasattr(module, "app"):
        assert inspect.getdoc(getattr(module, name))
    done = python(f"import sys; sys.argv = ['mlxflow', {name!r}, '--help']\n"
                  "from mlxflow.cli.main import main\n"
                  "try: main()\n"
                  "finally: print('mlx.core' in sys.modules)")
    assert done.returncode == 0, done.stderr
    assert f"mlxflow {name}" in done.stdout
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("wrong, right", [(["genrate"], "generate"), (["ifno"], "info"), (["--versoin"], "--version"),
                                          (["info", "--devic", "cpu"], "--device")])
def test_a_misspelt_word_is_answered_with_the_right_one(mlxflow_command, wrong, right):
    done = mlxflow_command(*wrong)
    assert done.returncode == 2
    assert right in words(done.stderr).split("Error", 1)[1]
    assert "Traceback" not in done.stderr


def test_a_wrong_device_is_answered_with_the_choices(mlxflow_command):
    done = mlxflow_command("info", "--device", "gpu")
    assert done.returncode == 2
    assert all(device in done.stderr for device in ("metal", "cuda", "cpu"))


def test_a_user_error_is_one_line_and_exit_2(python):
    done = python(BOOM.format(body="from mlxflow.errors import MlxflowError; raise MlxflowError('Try [b]this[/b].')"))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "mlxflow: Try [b]this[/b].\n")


def test_a_bug_keeps_its_traceback(python):
    done = python(BOOM.format(body="raise ZeroDivisionError('a bug')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr


def test_an_interrupt_is_exit_130_without_a_traceback():
    code = BOOM.format(body="print('ready', flush=True); import time; time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_is_no_traceback(lines):
    code = BOOM.format(body=f"input(); [print(i) for i in range({lines})]")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 1
    assert errors == ""
