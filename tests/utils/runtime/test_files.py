"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from utils.runtime.files import atomic_write, leftovers, write_bytes


def test_the_new_file_takes_the_old_ones_place_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_bytes(path, b"old")
    with atomic_write(path, durable=True) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file.txt"]


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file.txt"]


def test_names_of_255_bytes_and_the_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127 + "x")
    write_bytes(path, b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_what_killed_writes_to_a_file_left_is_found(tmp_path: Path) -> None:
    names = ["latest.pth", "best.pth", "x" * 99 + "1", "x" * 99 + "2"]
    for name in names:
        child = os.fork()
        if child == 0:
            with atomic_write(tmp_path / name) as file:
                file.write(b"half")
                os._exit(1)
        os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 4
    for name in names:
        (left,) = leftovers(tmp_path / name)
        left.unlink()
        assert leftovers(tmp_path / name) == []
    assert leftovers(tmp_path / "nowhere" / "x") == []
