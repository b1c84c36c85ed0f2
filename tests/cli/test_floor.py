"""`mlxflow floor` from the shell."""

import re
import subprocess
import sys

from tests.evaluation.test_floor import make_folder


def floor(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mlxflow", "floor", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_table_has_a_row_for_each_bin_and_the_mean(tmp_path):
    done = floor(make_folder(tmp_path / "f", list("abcdef")), "--size", 8, "--bins", 4, "--count", 8)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(\d\.\d\d-\d\.\d\d|mean) \D+(\d+\.\d+)", done.stdout)
    assert [name for name, _ in rows] == ["0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00", "mean"]
    values = [float(value) for _, value in rows]
    assert values[0] > values[3] and abs(sum(values[:4]) / 4 - values[4]) < 2e-5


def test_bad_input_is_one_sentence_and_exit_2(tmp_path):
    for arguments in (
        [tmp_path / "none"],
        [make_folder(tmp_path / "f", ["a"]), "--size", 8, "--path", "curved"],
        [tmp_path / "f", "--size", 8, "--prediction", "score"],
    ):
        done = floor(*arguments)
        assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.startswith("mlxflow: ") and done.stderr.count("\n") == 1
