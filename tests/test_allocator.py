import subprocess
import sys

import pytest

from mlxflow.allocator import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_taken_again_without_page_faults():
    program = """
import ctypes, resource, sys
from mlxflow.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    blocks = [libc.malloc(16 << 20) for _ in range(6)]
    for block in blocks:
        ctypes.memset(block, 1, 16 << 20)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {mode: int(subprocess.run([sys.executable, "-c", program, mode], check=True, capture_output=True,
                                       text=True).stdout) for mode in ("plain", "keep")}
    assert faults["keep"] < faults["plain"] / 5


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
