"""A lock keeps others out while its process lives, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import lock_in_another_process
from utils.runtime import lock
from utils.runtime.lock import RunLock

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="no such locks here")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, with a child that has inherited all its files."""
    process = lock_in_another_process(tmp_path / ".r.lock")
    yield process
    process.kill()
    process.wait()


def test_another_process_is_refused_by_one_line_until_it_ends(
    held: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:
        RunLock().acquire(tmp_path / ".r.lock")
    line = str(caught.value)
    assert f"another run (process {held.pid} on " in line and "\n" not in line
    assert "choose another --output_dir" in line
    held.stdin.close()
    held.wait()
    assert not list(tmp_path.iterdir())
    assert RunLock().acquire(tmp_path / ".r.lock") is None


def test_a_killed_process_keeps_no_lock_though_its_children_live(
    held: subprocess.Popen[str], tmp_path: Path
) -> None:
    child = int(held.stdout.readline())
    os.kill(held.pid, signal.SIGKILL)
    held.wait()
    os.kill(child, 0)  # it lives, and has the file open
    try:
        assert RunLock().acquire(tmp_path / ".r.lock") is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_was_made_for_the_lock_goes_with_it(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    for folder in (tmp_path / "new" / "deep", used):
        one = RunLock()
        assert one.acquire(folder / ".r.lock") is None
        assert (folder / ".r.lock").exists()
        one.release()
        one.release()
    assert list(tmp_path.rglob("*")) == [used]


def test_a_folder_that_is_in_use_by_now_stays(tmp_path: Path) -> None:
    one = RunLock()
    one.acquire(tmp_path / "new" / ".r.lock")
    (tmp_path / "new" / "latest.pth").touch()
    one.release()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["latest.pth"]


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: object, flags: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "lockf", refused)


@pytest.mark.parametrize(
    "without", [no_locks, lambda monkeypatch: monkeypatch.setattr(lock, "fcntl", None)]
)
def test_where_locks_are_not_possible_it_is_said(
    without: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    one = RunLock()
    note = one.acquire(tmp_path / ".r.lock")
    assert f"cannot lock {tmp_path / '.r.lock'} (" in note and "\n" not in note
    one.release()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot make --output_dir .*; choose another folder"):
            RunLock().acquire(folder / ".r.lock")


def test_locks_and_signals_bring_no_other_library() -> None:
    """The programs import them first, so that Ctrl-C is answered during the slow imports."""
    code = "import sys, utils.runtime.signals; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
