"""The folder of the cache: crashes, full disks, and folders that can't be written."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from datasets.base import FileDataset
from datasets.loader import cache as cache_module
from datasets.loader.cache import SampleCache
from tests.datasets.loader.cached import assert_same, batches, fill

Usage = namedtuple("Usage", "total used free")
pytestmark = pytest.mark.filterwarnings("ignore:This process", "ignore:This DataLoader")
FORK = multiprocessing.get_context("fork")
MakeDataset = Callable[..., FileDataset]


def write_again_and_again(data: FileDataset, folder: Path) -> None:
    while True:
        for path in folder.glob("*.sample"):
            path.unlink(missing_ok=True)
        SampleCache(folder, data).load(0)


def test_several_processes_write_the_same_entry(ten_classes: MakeDataset, tmp_path: Path) -> None:
    """They write, delete and are killed at any moment, while it is read."""
    data, folder = ten_classes(1, (300, 400)), tmp_path / "cache"
    expected = data.decode(0)
    for turn in range(5):
        writers = [
            FORK.Process(target=write_again_and_again, args=(data, folder)) for _ in range(2)
        ]
        for writer in writers:
            writer.start()
        for _ in range(5 + 3 * turn):
            assert_same(SampleCache(folder, data).load(0), expected)
        for writer in writers:
            writer.kill()
            writer.join()
        again = SampleCache(folder, data)
        assert_same(again.load(0), expected)
        assert_same(again.load(0), expected)


def write_until(stage: str, data: FileDataset, folder: Path, reached: Connection) -> None:
    """Write an entry, but never get past `stage`."""

    def stop(*_: object) -> None:
        reached.send(stage)
        time.sleep(60)

    if stage == "rename":
        os.replace = stop
    else:  # the header is written, the pixels are not
        np.ascontiguousarray = stop
    SampleCache(folder, data).load(0)


@pytest.mark.parametrize("stage", ["pixels", "rename"])
def test_a_killed_writer_leaves_nothing(
    data: FileDataset, decoded: list[int], tmp_path: Path, stage: str
) -> None:
    folder = tmp_path / "cache"
    here, there = FORK.Pipe(duplex=False)
    writer = FORK.Process(target=write_until, args=(stage, data, folder, there))
    writer.start()
    assert here.poll(30)
    writer.kill()
    writer.join()
    SampleCache(folder, data)
    (temporary,) = folder.iterdir()  # it could still be in use
    long_ago = time.time() - 3700
    os.utime(temporary, (long_ago, long_ago))
    again = SampleCache(folder, data)
    assert list(folder.iterdir()) == []
    assert_same(again.load(0), FileDataset.decode(data, 0))
    assert decoded == [0]


def test_only_old_temporary_files_of_entries_are_removed(data: FileDataset, tmp_path: Path) -> None:
    folder, key = tmp_path / "cache", "0" * 32
    folder.mkdir()
    old = [f".{key}.sample.00000000.tmp", "notes.tmp", ".notes.tmp", f"{key}.sample"]
    new = f".{key}.sample.00000001.tmp"
    for name in (*old, new):
        (folder / name).touch()
    for name in old:
        os.utime(folder / name, (0, 0))
    SampleCache(folder, data)
    assert {path.name for path in folder.iterdir()} == {*old[1:], new}


def test_too_small_a_disk_is_refused_at_the_start(
    data: FileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    usage = Usage(10**9, 10**9, 4 * 8192 - 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError) as caught:
        SampleCache(folder, data)
    line = str(caught.value)
    assert line.startswith(f"--cache {folder} needs 32.0 KiB more, but only 31.0 KiB are free; ")
    assert "\n" not in line
    usage = Usage(10**9, 10**9, 4 * 8192)
    SampleCache(folder, data).load(0)
    usage = Usage(10**9, 10**9, 3 * 8192)
    assert SampleCache(folder, data).missing_bytes == 3 * 8192  # one is there
    with pytest.raises(ValueError, match="needs 25.0 KiB more, but only 24.0 KiB are free"):
        SampleCache(folder, data, reserved=1000)
    fill(data, tmp_path / "cache")
    usage = Usage(10**9, 10**9, 0)
    assert SampleCache(folder, data, reserved=1).missing_bytes == 0  # nothing to write


@pytest.mark.parametrize("why", ["file", "no permission", "read-only"])
def test_a_folder_that_cannot_be_written_is_refused(
    data: FileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    folder = tmp_path / "cache"
    if why == "file":
        folder.write_text("")
        reason = "File exists"
    else:
        number = errno.EACCES if why == "no permission" else errno.EROFS
        reason = os.strerror(number)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, reason)

        monkeypatch.setattr(cache_module.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError) as caught:
        SampleCache(folder, data)
    assert str(caught.value) == (
        f"cannot write in --cache {folder}: {reason}; choose another folder"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_ends_storing_but_not_training(
    data: FileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    expected = batches(data, 0)
    data.cache = SampleCache(tmp_path / "cache", data)
    data.cache.load(1)
    replace = os.replace

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert batches(data, workers) == expected
    assert data.cache.problem() == (
        f"cannot store more samples in --cache {tmp_path / 'cache'}: No space left on device; the "
        "stored ones are used, the others are decoded each time"
    )
    # No half an entry is left, and it is not tried again; what is there is used.
    monkeypatch.setattr(os, "replace", replace)
    assert batches(data, workers) == expected
    assert len(list((tmp_path / "cache").iterdir())) == 1
