"""Freed memory stays with the process; running out of it is recognized."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

import utils.runtime.memory
from utils.runtime.memory import is_out_of_memory, keep_freed_memory

# Whether 256 MiB come from the heap, and whether it still reaches as far after they were freed.
SCRIPT = """
import ctypes, runpy, sys
if sys.argv[1] == "keep":
    keep_freed_memory = runpy.run_path(sys.argv[2])["keep_freed_memory"]
    assert keep_freed_memory() and keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def on_heap(address):
    for line in open("/proc/self/maps"):
        if line.rstrip().endswith("[heap]"):
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            return first <= address < last
    return False

size = 2**28
block = libc.malloc(size)
before = on_heap(block)
libc.free(block)
print(before, on_heap(block + size - 1))
"""

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")


def place_of_a_block(mode: str) -> str:
    command = [sys.executable, "-c", SCRIPT, mode, utils.runtime.memory.__file__]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@on_glibc
def test_big_blocks_come_from_a_heap_that_does_not_shrink() -> None:
    assert place_of_a_block("default") == "False False"
    assert place_of_a_block("keep") == "True True"


@pytest.mark.parametrize("libc", ["", "musl"])  # "" on Windows and macOS
def test_elsewhere_it_has_no_effect(libc: str, monkeypatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("nothing may be called"))
    assert keep_freed_memory.__wrapped__() is False


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**47, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
