"""Help that is grouped and has examples; completion in each shell; wrong options are answered with right ones."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import typer

from mlxflow.cli.main import COMMANDS, _load


def leaves():
    """(words, command) of every command that does something."""
    for name in COMMANDS:
        command = _load(name)
        for sub, inner in getattr(command, "commands", {"": command}).items():
            yield f"{name} {sub}".strip(), inner


LEAVES = dict(leaves())


@pytest.mark.parametrize("words", LEAVES)
def test_every_command_shows_an_example_of_itself(words):
    text = LEAVES[words].help
    assert re.search(rf"Examples?:.*mlxflow {words}\b", text, re.DOTALL), text


@pytest.mark.parametrize("words", ["generate", "edit inpaint", "train"])
def test_options_stand_under_headings_and_none_is_lost(words):
    command = LEAVES[words]
    context = typer.Context(command, info_name=words)
    text = command.get_help(context)
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert len(headings) >= 4 and headings[-1] == "Options" and len(set(headings)) == len(headings)
    for parameter in command.params:
        assert any(name in text for name in parameter.opts), parameter.name


@pytest.mark.parametrize("wrong, right", [
    (["generate", "cat", "--sed", "7"], "--seed"), (["generate", "cat", "--guidence", "2"], "--guidance"),
    (["edit", "inpain"], "inpaint"), (["edit", "redraw", "--strenght", "1"], "--strength"), (["weights", "lst"], "list"),
    (["train", "--minuts", "5"], "--minutes"), (["edti"], "edit")])
def test_a_wrong_word_is_answered_with_the_right_one(mlxflow_command, wrong, right):
    done = mlxflow_command(*wrong)
    assert done.returncode == 2 and right in done.stderr and "Traceback" not in done.stderr


def completions(python, line, shell="bash"):
    """What a shell offers for the last word of a command line."""
    words = line.split(" ")
    done = python("-m", "mlxflow", _MLXFLOW_COMPLETE=f"complete_{shell}", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1),
                  _TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("line, offered", [("mlxflow gen", "generate"), ("mlxflow generate --gui", "--guidance"),
                                           ("mlxflow edit inp", "inpaint"), ("mlxflow generate --for sl", "slack")])
def test_words_are_completed_in_each_shell(python, shell, line, offered):
    assert offered in completions(python, line, shell)


@pytest.mark.skipif(not shutil.which("bash") or sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize("shell, file", [("bash", ".bash_completions/mlxflow.sh"), ("zsh", ".zfunc/_mlxflow"),
                                         ("fish", ".config/fish/completions/mlxflow.fish")])
def test_completion_installs_for_the_shell_that_asks(tmp_path, shell, file):
    """The shell is told by the name of the process that runs the command: here bash under another name."""
    home, program = tmp_path / "home", tmp_path / shell
    home.mkdir()
    shutil.copy(shutil.which("bash"), program)
    done = subprocess.run([program, "-c", f"'{sys.executable}' -m mlxflow --install-completion; exit $?"], cwd=tmp_path,
                          env={k: v for k, v in os.environ.items() if k != "XDG_CONFIG_HOME"} | {"HOME": str(home), "SHELL": str(program)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{shell} completion installed" in done.stdout
    assert "_MLXFLOW_COMPLETE" in (home / file).read_text()


@pytest.mark.skipif(not shutil.which("bash") or sys.platform == "win32", reason="needs bash")
def test_bash_itself_completes(tmp_path):
    """The installed function, called as bash calls it for `mlxflow gen<TAB>`."""
    script = subprocess.run([sys.executable, "-c", "from typer._completion_shared import get_completion_script as script;"
                             "print(script(prog_name='mlxflow', complete_var='_MLXFLOW_COMPLETE', shell='bash'))"],
                            capture_output=True, text=True, check=True).stdout
    (tmp_path / "mlxflow").write_text(f"#!/bin/sh\nexec '{sys.executable}' -m mlxflow \"$@\"\n")
    (tmp_path / "mlxflow").chmod(0o755)
    code = script + "\nCOMP_WORDS=(mlxflow gen); COMP_CWORD=1; _mlxflow_completion mlxflow; echo \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    assert done.stdout.split() == ["generate"], done.stderr
