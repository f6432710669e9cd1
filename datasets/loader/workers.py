"""Cores and shared memory for loader processes, and messages about those that died."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from pathlib import Path

from utils.runtime.console import size_text
from utils.runtime.limits import cpu_quota

PREFETCH = 2  # batches that each loader process fetches ahead; torch's default
SHARED_MEMORY = Path("/dev/shm")


def available_cores() -> int:
    """Cores that this process may use, by its affinity and the CPU quota of its control group."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota())))


def default_num_workers(local_world_size: int) -> int:
    """How many loader processes each training process on the machine gets.

    One for each of its cores but one, which is left to the training process itself.
    """
    return max(available_cores() // local_world_size - 1, 0)


def check_shared_memory(
    batch_bytes: int,
    *,
    num_workers: int,
    local_world_size: int = 1,
    directory: Path = SHARED_MEMORY,
) -> str | None:
    """A warning if batches of `batch_bytes` from loader processes may not fit in shared memory."""
    if num_workers == 0 or not directory.is_dir():
        return None
    # Each process has its prefetched batches and makes another; one more is in use.
    needed = batch_bytes * (num_workers * (PREFETCH + 1) + 1) * local_world_size
    free = shutil.disk_usage(directory).free
    if needed <= free:
        return None
    return (
        f"loader processes may need {size_text(needed)} of shared memory for batches, but "
        f"{directory} has only {size_text(free)} free; {_remedy(needed)}"
    )


def _remedy(needed: int = 0) -> str:
    gib = max(8, math.ceil(2 * needed / 2**30))
    return (
        "use a smaller --num_workers (0 needs none) or --batch_size, or give a container more: "
        f"docker run --shm-size={gib}g"
    )


RESTART_HINT = (
    "perhaps the machine ran out of memory: use a smaller --num_workers; then continue with "
    "--continue_training"
)


class WorkerError(RuntimeError):
    """A loader process died; the message is one line."""


# What torch says when shared memory runs out; its blocks are named /torch_...
SHARED_MEMORY_ERRORS = re.compile(
    r"bus error|out of shared memory|insufficient shared memory|unable to [^\n]*</?torch_",
    re.IGNORECASE,
)
TOO_MANY_FILES = re.compile(r"too many open files|received 0 items of ancdata", re.IGNORECASE)
KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ([^.]+)\.")
WAIT_FOR_REASON = 1.0  # seconds
EXITED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) exited unexpectedly")


def _full_text(error: BaseException | None) -> str:
    """The text of the error and of its causes; any of them may name the signal."""
    texts: list[str] = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def worker_death_line(error: BaseException) -> str | None:
    """One line about a loader process that died; None for any other error."""
    if isinstance(error, WorkerError):
        return str(error)
    text = _full_text(error)
    if TOO_MANY_FILES.search(text):
        return "loader processes have too many files open; raise the limit: ulimit -n 65536"
    if SHARED_MEMORY_ERRORS.search(text):
        return f"a loader process ran out of shared memory; {_remedy()}"
    if killed := KILLED.search(text):
        pid, name = killed.groups()
        return f"a signal ({name}) killed loader process {pid}; {RESTART_HINT}"
    if exited := EXITED.search(text):
        return f"loader process {exited[1].strip()} ended unexpectedly; {RESTART_HINT}"
    return None


def as_worker_error(error: BaseException) -> WorkerError | None:
    """The WorkerError for an error that a DataLoader raised because a process died; else None.

    Reading from a process that has just died may fail before torch knows why it died.
    """
    unnamed = isinstance(error, FileNotFoundError) and error.filename is None  # its socket
    if isinstance(error, EOFError | ConnectionError) or unnamed:
        try:
            time.sleep(WAIT_FOR_REASON)  # torch's signal handler raises the reason here
        except RuntimeError as reason:
            error = reason
        return WorkerError(worker_death_line(error) or f"a loader process ended; {RESTART_HINT}")
    line = worker_death_line(error)
    return None if line is None else WorkerError(line)
