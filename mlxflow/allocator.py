"""Keeps freed memory in the process on Linux, where MLX's CPU back end allocates with malloc at every operation.

glibc gives blocks above 128 kB back to the kernel as soon as they are freed and takes them anew, a page fault for
every 4 kB: a sixth of a training step on an idle machine, most of it on one that is short of memory.
"""

import ctypes
import sys

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; False where there is no glibc."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
