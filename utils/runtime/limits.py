"""What this process may use of its machine, by control groups and by the limits of its user."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ROOT = Path("/")


def group_folders(controller: str, *, root: Path = ROOT) -> list[Path]:
    """The folders of this process's control group and of its parents, version 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux, or not readable
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.lstrip("/")
        # In a container the path may be that of the host; then only the top exists.
        around = [group, *group.parents]
        folders += around[: around.index(top) + 1]
    return folders


def _numbers(controller: str, *names: str, root: Path) -> Iterator[list[float]]:
    """The numbers in these files, one list for each control group that has them all."""
    for folder in group_folders(controller, root=root):
        with suppress(OSError, ValueError):  # no such file; "max"
            yield [float(word) for name in names for word in (folder / name).read_text().split()]


def cpu_quota(*, root: Path = ROOT) -> float:
    """How many cores the control groups allow; infinite without a limit."""
    found = [*_numbers("cpu", "cpu.max", root=root)]
    found += _numbers("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us", root=root)
    return min((time / period for time, period in found if time > 0), default=math.inf)


def memory_limit(*, root: Path = ROOT) -> float:
    """Bytes of memory and swap that can be had at most; infinite where that is not known."""
    limits = [*_numbers("memory", "memory.max", root=root)]
    limits += _numbers("memory", "memory.limit_in_bytes", root=root)
    free = math.inf
    with suppress(OSError, KeyError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        free = 1024.0 * (kib["MemAvailable"] + kib["SwapFree"])
    return min([free, *(limit for (limit,) in limits)])


def process_limit(*, root: Path = ROOT) -> float:
    """How many more processes may be started at most; infinite where that is not known."""
    limits = [most - now for most, now in _numbers("pids", "pids.max", "pids.current", root=root)]
    if resource is not None and os.geteuid() != 0:  # the administrator's have no limit
        most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limits += [most] if most != resource.RLIM_INFINITY else []
    return min(limits, default=math.inf)
