"""What control groups and the system allow, as files in /proc and /sys say it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from utils.runtime import limits

INF = float("inf")
V1 = "7:pids:/box\n4:memory:/box\n3:cpu,cpuacct:/box\n"


def system(root: Path, groups: str, files: Mapping[str, str], *, meminfo: str = "") -> Path:
    """A tree with /proc/self/cgroup, /proc/meminfo and files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/meminfo").write_text(meminfo)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, INF),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2.5),
        # The parent is tighter; the path of the host inside a container is not there.
        ("0::/a/b\n", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/host/x\n", {"cpu.max": "150000 100000"}, 1.5),
        ("4:memory:/m\n0::/job\n", {"job/cpu.max": "50000 100000", "m/cpu.max": "1 100000"}, 0.5),
        ("1:cpu:/\n", {}, INF),
        (V1, {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"}, INF),
        (V1, {"cpu/box/cpu.cfs_quota_us": "150000", "cpu/box/cpu.cfs_period_us": "100000"}, 1.5),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ("0::/\n", {}, INF),
    ],
)
def test_cpu_quota(tmp_path: Path, groups: str, files: dict[str, str], expected: float) -> None:
    assert limits.cpu_quota(root=system(tmp_path, groups, files)) == expected


MEMINFO = "MemTotal: 9000 kB\nMemAvailable: 1000 kB\nSwapFree: 24 kB\nHugePages_Total: 0\n"


@pytest.mark.parametrize(
    ("groups", "files", "meminfo", "expected"),
    [
        ("0::/\n", {}, MEMINFO, 2**20),
        ("0::/\n", {"memory.max": "max"}, MEMINFO, 2**20),
        ("0::/a\n", {"a/memory.max": "max", "memory.max": "4096"}, MEMINFO, 4096),
        (V1, {"memory/box/memory.limit_in_bytes": "9223372036854771712"}, MEMINFO, 2**20),
        (V1, {"memory/box/memory.limit_in_bytes": "8192"}, MEMINFO, 8192),
        ("0::/\n", {}, "", INF),
    ],
)
def test_memory(
    tmp_path: Path, groups: str, files: dict[str, str], meminfo: str, expected: float
) -> None:
    root = system(tmp_path, groups, files, meminfo=meminfo)
    assert limits.memory_limit(root=root) == expected


@pytest.mark.parametrize(
    ("user", "files", "expected"),
    [
        (0, {}, INF),
        (0, {"pids.max": "max", "pids.current": "7"}, INF),
        (0, {"pids.max": "100", "pids.current": "7"}, 93),
        (1000, {}, 40),
        (1000, {"pids.max": "30", "pids.current": "7"}, 23),
    ],
)
def test_processes(
    tmp_path: Path,
    user: int,
    files: dict[str, str],
    expected: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits.os, "geteuid", lambda: user)
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (40, 50))
    assert limits.process_limit(root=system(tmp_path, "0::/\n", files)) == expected


def test_where_nothing_is_known_nothing_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "resource", None)
    found = [
        limit(root=tmp_path)
        for limit in (limits.cpu_quota, limits.memory_limit, limits.process_limit)
    ]
    assert found == [INF, INF, INF]
