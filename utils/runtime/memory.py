"""What the program does about memory: keep it, and say what helps when there is none left."""

from __future__ import annotations

import ctypes
import platform
import re
from functools import cache

# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse big blocks instead of returning them; tells whether that was possible.

    glibc gets every large tensor from the kernel and gives it back when it is freed. The next one
    then costs a page fault every 4 KiB, on a CPU the largest single cost of inference. Here they
    come from the heap, which never shrinks (and grows in steps of 64 MiB): results are the same,
    the process keeps its peak. For glibc (Linux), once per process; elsewhere without effect.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1  # as a size: the largest there is
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, never), (M_TOP_PAD, TOP_PAD))
    return all(mallopt(name, value) == 1 for name, value in settings)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    words = "out of memory|can't allocate"
    return isinstance(error, RuntimeError) and re.search(words, str(error)) is not None
