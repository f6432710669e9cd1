"""Decoded samples on disk, mapped into memory: what is read of one is what its crop touches.

An entry is one file: a header (64 bytes), the image (H, W, 3) and the label (H, W) in train ids,
both uint8. So a sample takes 4 bytes a pixel: 6 MiB + 2 MiB for one of Cityscapes, 25 GB (23.3 GiB)
for its 2,975 training images. Deleting the folder, or any file in it, is always safe.

Runs, their processes and crashes may share a folder. An entry is written under another name and
renamed when it is complete. It counts only with the right length (a power cut leaves short files),
and with the sizes and times of both files as they are now: so a file that changes gets a new entry
in the place of the old one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import re
import shutil
import socket
import struct
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datasets.base import FileDataset
from datasets.files import DataError, image_size

MAGIC = b"segcache"
VERSION = 1  # of the layout and of what reading makes of a file; older entries are not found
HEADER = struct.Struct("<8sII4q16x")  # magic, height, width, State
BLOCK = 4096  # file systems give room in blocks
TEMPORARY = re.compile(r"\.[0-9a-f]{32}-[0-9a-f]{8}@(\d+)@(.*)\.tmp")  # process, machine
STALE_SECONDS = 3600  # no entry takes that long to write


class State(NamedTuple):
    """Image and label file as they were when they were decoded."""

    image_bytes: int
    image_mtime_ns: int
    label_bytes: int = 0  # 0, 0: a split without labels
    label_mtime_ns: int = 0


class SampleCache:
    """The samples of `dataset`, decoded once and kept in `directory`.

    `missing_bytes` is what the samples that are not there yet will take; `reserved` is what other
    caches of the run will take on the same disk. Raises ValueError where that is more than is
    free, or where `directory` can't be written.
    """

    def __init__(self, directory: Path, dataset: FileDataset, *, reserved: int = 0) -> None:
        self.directory = Path(os.path.abspath(directory))
        self._dataset = dataset
        self._entries = [self.directory / f"{key}.sample" for key in _keys(dataset)]
        # The number of the error that ended storing, in any process; 0: none.
        self._errno = torch.zeros(1, dtype=torch.int32).share_memory_()
        self._make_directory()
        self.missing_bytes = sum(map(self._bytes_to_store, range(len(dataset))))
        if self.missing_bytes:
            self._require_room(reserved)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and label (H, W), both uint8 and read-only; DataError as decoding has.

        A sample that is not there yet is decoded and stored.
        """
        try:
            # Before decoding: should the file change meanwhile, the entry will be out of date.
            state = self._state(index)
        except OSError:
            return self._dataset.decode(index)  # whose error names the file
        sample = _read_entry(self._entries[index], state)
        if sample is None:
            sample = self._dataset.decode(index)
            self._store(self._entries[index], state, *sample)
            for pixels in sample:
                pixels.flags.writeable = False
        return sample

    def problem(self) -> str | None:
        """Why samples are no longer stored, in one line; None while all is well."""
        number = int(self._errno)
        if not number:
            return None
        return (
            f"--cache {self.directory} takes no more samples: {os.strerror(number)}; those in it "
            "are used, the others are decoded each time"
        )

    def _state(self, index: int) -> State:
        files = [self._dataset.images[index]]
        if self._dataset.labels is not None:
            files.append(self._dataset.labels[index])
        return State(*(n for s in map(os.stat, files) for n in (s.st_size, s.st_mtime_ns)))

    def _store(self, entry: Path, state: State, image: np.ndarray, label: np.ndarray) -> None:
        """Write one entry; what fails ends storing, not training."""
        if self._errno:
            return
        temporary = entry.with_name(
            f".{entry.stem}-{os.urandom(4).hex()}@{os.getpid()}@{socket.gethostname()}.tmp"
        )
        try:
            with open(temporary, "xb") as file:
                file.write(HEADER.pack(MAGIC, *label.shape, *state))
                file.write(np.ascontiguousarray(image))
                file.write(np.ascontiguousarray(label))
            # Where another run took this one for dead and tidied up, one sample is not stored.
            with contextlib.suppress(FileNotFoundError):
                os.replace(temporary, entry)
        except OSError as error:
            self._errno[0] = error.errno or errno.EIO
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _bytes_to_store(self, index: int) -> int:
        """What the entry will take, by the image's header; 0 if it is there, or can't be made."""
        try:
            if _entry_fits(self._entries[index], self._state(index)):
                return 0
            width, height = image_size(self._dataset.images[index])
        except (OSError, DataError):
            return 0  # said when it is loaded
        return -(-_entry_bytes(height, width) // BLOCK) * BLOCK

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with os.scandir(self.directory) as found:
                leftovers = [file.name for file in found if TEMPORARY.fullmatch(file.name)]
        except OSError as error:
            raise ValueError(self._refusal(error)) from error
        for name in leftovers:
            with contextlib.suppress(OSError):
                if _is_left_over(self.directory / name):
                    os.unlink(self.directory / name)

    def _require_room(self, reserved: int) -> None:
        try:
            with tempfile.TemporaryFile(dir=self.directory):
                pass
            free = shutil.disk_usage(self.directory).free
        except OSError as error:
            raise ValueError(self._refusal(error)) from error
        if self.missing_bytes + reserved > free:
            raise ValueError(
                f"--cache {self.directory} needs {_size_text(self.missing_bytes + reserved)} more, "
                f"and {_size_text(free)} are free there; make room, name a folder on another disk, "
                "or leave out --cache"
            )

    def _refusal(self, error: OSError) -> str:
        reason = error.strerror or type(error).__name__
        return f"cannot write in --cache {self.directory}: {reason}; name another folder"


def _keys(dataset: FileDataset) -> list[str]:
    """What tells the samples apart: both paths, and how labels are read."""
    facts = (VERSION, sorted((dataset.facts.colors or {}).items()))
    how = hashlib.blake2b(repr(facts).encode() + dataset.facts.label_table.tobytes()).digest()
    keys = []
    for index, image in enumerate(dataset.images):
        paths = [image] if dataset.labels is None else [image, dataset.labels[index]]
        parts = [os.fsencode(os.path.abspath(path)) for path in paths]
        keys.append(hashlib.blake2b(b"\0".join([*parts, how]), digest_size=16).hexdigest())
    return keys


def _entry_bytes(height: int, width: int) -> int:
    return HEADER.size + 4 * height * width


def _entry_fits(entry: Path, state: State) -> bool:
    """Whether there is a complete entry of the files as they are now."""
    try:
        with open(entry, "rb", buffering=0) as file:
            return (
                _shape(file.read(HEADER.size), os.fstat(file.fileno()).st_size, state) is not None
            )
    except OSError:
        return False


def _shape(header: bytes, num_bytes: int, state: State) -> tuple[int, int] | None:
    """Height and width of a complete entry of `state`; None for anything else."""
    if len(header) < HEADER.size:
        return None
    magic, height, width, *written = HEADER.unpack(header)
    if magic != MAGIC or tuple(written) != state or num_bytes != _entry_bytes(height, width):
        return None
    return height, width


def _read_entry(entry: Path, state: State) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with open(entry, "rb", buffering=0) as file:
            # Entries are replaced, never written to: the map stays what it is.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # not there; empty
        return None
    shape = _shape(content[: HEADER.size], len(content), state)
    if shape is None:
        return None
    height, width = shape
    pixels = np.frombuffer(content, dtype=np.uint8, offset=HEADER.size)
    split = 3 * height * width
    return pixels[:split].reshape(height, width, 3), pixels[split:].reshape(height, width)


def _is_left_over(temporary: Path) -> bool:
    """Whether nobody is writing it: its process on this machine is gone, or it is an old file."""
    number, host = TEMPORARY.fullmatch(temporary.name).groups()
    if host == socket.gethostname() and not _is_alive(int(number)):
        return True
    return time.time() - temporary.stat().st_mtime > STALE_SECONDS


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _size_text(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"
