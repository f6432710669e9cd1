"""Memory: freed blocks are kept, the peak is measured, a failed allocation is recognized."""

from __future__ import annotations

import ctypes
import platform
import re
from functools import cache

import torch

# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let this process keep and reuse large blocks of memory; returns whether that is possible.

    By itself glibc returns the memory of every large tensor to the kernel. Each new tensor then
    costs a page fault for every 4 KiB, which is the largest single cost of inference on a CPU. Here
    large blocks come from the heap, which never shrinks and grows in steps of 64 MiB: results stay
    the same, and the process keeps its peak. It works with glibc (Linux) only.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1  # as a size: the largest there is
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, never), (M_TOP_PAD, TOP_PAD))
    return all(mallopt(name, value) == 1 for name, value in settings)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    words = "out of memory|can't allocate|_STATUS_ALLOC_FAILED"  # the last is cuDNN's and cuBLAS's
    return isinstance(error, RuntimeError) and re.search(words, str(error)) is not None


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had: of the GPU that it computes on, else of RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak
