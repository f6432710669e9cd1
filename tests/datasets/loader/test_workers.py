"""Cores, shared memory, and what is said when a worker dies."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from datasets.loader import workers
from datasets.loader.workers import (
    WorkerError,
    as_worker_error,
    available_cores,
    check_shared_memory,
    default_num_workers,
    worker_death_line,
)


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"), [(6, math.inf, 6), (6, 2.9, 2), (2, 8.0, 2), (4, 0.5, 1)]
)
def test_available_cores(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(workers, "cpu_quota", lambda: quota)
    assert available_cores() == expected


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(1, 1, 0), (2, 1, 1), (2, 2, 0), (2, 4, 0), (16, 1, 15), (16, 4, 3), (96, 8, 11)],
)
def test_default_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, expected: int
) -> None:
    monkeypatch.setattr(workers, "available_cores", lambda: cores)
    assert default_num_workers(processes) == expected


def test_shared_memory_is_checked_for_all_batches_on_their_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    check = {"directory": tmp_path, "num_workers": 2}
    assert check_shared_memory(9 << 20, **check) is None  # 7 of 9 MiB
    line = check_shared_memory(10 << 20, **check)
    assert line.startswith("loader processes may need 70.0 MiB of shared memory for batches, but ")
    assert "only 64.0 MiB free" in line and "--num_workers (0 " in line and "--shm-size=8g" in line
    assert "\n" not in line
    assert check_shared_memory(9 << 20, local_world_size=2, **check) is not None
    assert check_shared_memory(10 << 20, num_workers=0, directory=tmp_path) is None
    assert check_shared_memory(10 << 20, num_workers=2, directory=tmp_path / "none") is None


# As torch and the DataLoader write them.
SHARED = [
    "DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit.",
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n  ...\n"
    "RuntimeError: unable to write to file </torch_71_1_0>: No space left on device (28)",
    "unable to mmap 1048576 bytes from file </torch_71_1_0>: Cannot allocate memory (12)",
    "unable to allocate shared memory(shm) for file </torch_71_1_0>: Success (0)",
    "unable to resize file </torch_71_1_0> to the right size: Invalid argument (22)",
]
OTHERS = [
    "unable to mmap 99 bytes from file <checkpoints/best.pth>: Cannot allocate memory (12)",
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "DataLoader worker (pid 71) is killed by signal: Killed. ",
    "unable to open shared memory object </torch_7_1> in read-write mode: Too many open files (24)",
]


def test_shared_memory_errors_are_told_from_others() -> None:
    lines = [worker_death_line(RuntimeError(text)) or "" for text in OTHERS]
    assert not any("shared memory" in line for line in lines)


def test_lines_on_dead_workers() -> None:
    for text in SHARED:
        line = worker_death_line(RuntimeError(text))
        assert line.startswith(
            "a loader process ran out of shared memory; use a smaller --num_workers (0 "
        )
        assert "\n" not in line
    mapped, cuda, killed, files = (worker_death_line(RuntimeError(text)) for text in OTHERS)
    assert mapped is None and cuda is None
    assert killed.startswith("a signal (Killed) killed loader process 71; ")
    assert "ulimit -n" in files
    text = "DataLoader worker (pid(s) 71, 72) exited unexpectedly"
    assert worker_death_line(RuntimeError(text)).startswith("loader process 71, 72 ended")
    text = "DataLoader worker (pid 71) exited unexpectedly with exit code 3. Details are lost"
    assert worker_death_line(RuntimeError(text)).startswith("loader process 71 ended")


def test_a_connection_that_broke_waits_for_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler_raises(_: float) -> None:
        raise RuntimeError("DataLoader worker (pid 71) is killed by signal: Killed. ")

    for error in (EOFError(), ConnectionResetError(104, "reset"), FileNotFoundError(2, "no")):
        monkeypatch.setattr(workers.time, "sleep", handler_raises)
        named = as_worker_error(error)
        assert isinstance(named, WorkerError) and "71" in str(named) and "(Killed)" in str(named)
        assert worker_death_line(named) == str(named)
        monkeypatch.setattr(workers.time, "sleep", lambda _: None)
        assert str(as_worker_error(error)).startswith("a loader process ended; ")
    for error in (FileNotFoundError(2, "no", "a.png"), RuntimeError("Caught KeyError"), OSError(5)):
        assert as_worker_error(error) is None


def test_the_reason_may_be_in_the_error_before() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 71) exited unexpectedly")
    error.__cause__ = RuntimeError(SHARED[0])
    assert worker_death_line(error).startswith("a loader process ran out of shared memory")
