"""Decoded samples on disk, mapped into memory: only what a crop touches is read.

An entry is one file: six integers, the image (H, W, 3) and the label (H, W) in train ids, both
uint8. So a sample takes 4 bytes a pixel: 6 MiB + 2 MiB for one of Cityscapes, 25 GB (23.3 GiB) for
its 2,975 training images. Deleting the folder, or any file in it, is always safe.

Several runs and processes may share a folder. An entry is valid only with the right length (a power
cut leaves short files) and with the sizes and times that both files have now, and if its labels are
classes. An entry that is not valid is made anew: so a file that changes gets a new entry.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from datasets.base import FileDataset
from datasets.files import DataError, image_size
from utils.runtime.console import size_text
from utils.runtime.files import atomic_write, open_regular

VERSION = 1  # of what reading makes of a file; a change makes all entries invalid
HEADER_BYTES = 6 * 8  # int64: sizes and times of image and label file, height, width
BLOCK = 4096  # file systems allocate space in blocks
STALE_SECONDS = 3600  # writing an entry never takes that long


class SampleCache:
    """The samples of `dataset`, decoded once and kept in `directory`.

    `missing_bytes` is the size of all entries that do not exist yet; `reserved` is what the other
    caches of the run still need on the same disk. Raises ValueError if both together are more than
    is free, or if `directory` cannot be written.
    """

    def __init__(self, directory: Path, dataset: FileDataset, *, reserved: int = 0) -> None:
        self.directory = Path(os.path.abspath(directory))
        self._dataset = dataset
        self._entries = [self.directory / f"{key}.sample" for key in _keys(dataset)]
        # The errno of the error that ended storing, shared by all processes; 0: no error.
        self._errno = torch.zeros(1, dtype=torch.int32).share_memory_()
        self._prepare_directory()
        self.missing_bytes = sum(map(self._bytes_to_store, range(len(dataset))))
        if self.missing_bytes:
            self._require_room(reserved)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and label (H, W), both uint8 and read-only.

        A sample without an entry is decoded and stored, which may raise DataError.
        """
        try:
            # Before decoding: if a file changes meanwhile, the entry is invalid.
            state = self._state(index)
        except OSError:
            return self._dataset.decode(index)  # raises the error that names the file
        sample = _read_entry(self._entries[index], state)
        if sample is None or not self._holds_classes(sample[1]):
            sample = self._dataset.decode(index)
            self._store(self._entries[index], state, *sample)
            for pixels in sample:
                pixels.flags.writeable = False
        return sample

    def _holds_classes(self, label: np.ndarray) -> bool:
        """Whether all values are classes or 255, which is 0 after 1 is added."""
        return int((label + np.uint8(1)).max()) <= len(self._dataset.class_names)

    def problem(self) -> str | None:
        """One line that says why samples are no longer stored; None if they are."""
        number = int(self._errno)
        if not number:
            return None
        return (
            f"cannot store more samples in --cache {self.directory}: {os.strerror(number)}; the "
            "stored ones are used, the others are decoded each time"
        )

    def _state(self, index: int) -> list[int]:
        """Sizes and times of image and label file; zeros for a split without labels."""
        files = [self._dataset.images[index]]
        if self._dataset.labels is not None:
            files.append(self._dataset.labels[index])
        state = [n for s in map(os.stat, files) for n in (s.st_size, s.st_mtime_ns)]
        return state if len(files) == 2 else [*state, 0, 0]

    def _store(self, entry: Path, state: list[int], image: np.ndarray, label: np.ndarray) -> None:
        """Write one entry; an error ends storing, not training."""
        if self._errno:
            return
        try:
            with atomic_write(entry) as file:
                for part in (np.array([*state, *label.shape], dtype=np.int64), image, label):
                    file.write(np.ascontiguousarray(part).data)
        except OSError as error:
            self._errno[0] = error.errno or errno.EIO

    def _bytes_to_store(self, index: int) -> int:
        """The size of a missing entry; 0 if it exists or cannot be made."""
        try:
            if _read_entry(self._entries[index], self._state(index)) is not None:
                return 0
            width, height = image_size(self._dataset.images[index])
        except (OSError, DataError):
            return 0  # reported when the sample is loaded
        return -(-(HEADER_BYTES + 4 * height * width) // BLOCK) * BLOCK

    def _prepare_directory(self) -> None:
        """Make the folder, and delete what writers that were killed have left there."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporaries = list(self.directory.glob(".*.sample.*.tmp"))
        except OSError as error:
            raise ValueError(self._refusal(error)) from error
        for path in temporaries:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _require_room(self, reserved: int) -> None:
        try:
            with tempfile.TemporaryFile(dir=self.directory):
                pass
            free = shutil.disk_usage(self.directory).free
        except OSError as error:
            raise ValueError(self._refusal(error)) from error
        if self.missing_bytes + reserved > free:
            raise ValueError(
                f"--cache {self.directory} needs {size_text(self.missing_bytes + reserved)} more, "
                f"but only {size_text(free)} are free; make room, choose a folder on another disk, "
                "or leave out --cache"
            )

    def _refusal(self, error: OSError) -> str:
        reason = error.strerror or type(error).__name__
        return f"cannot write in --cache {self.directory}: {reason}; choose another folder"


def _keys(dataset: FileDataset) -> list[str]:
    """A key for each sample, made of both paths and the way labels are read."""
    facts = (VERSION, sorted((dataset.facts.colors or {}).items()))
    how = hashlib.blake2b(repr(facts).encode() + dataset.facts.label_table.tobytes()).digest()
    keys = []
    for index, image in enumerate(dataset.images):
        paths = [image] if dataset.labels is None else [image, dataset.labels[index]]
        parts = [os.fsencode(os.path.abspath(path)) for path in paths]
        keys.append(hashlib.blake2b(b"\0".join([*parts, how]), digest_size=16).hexdigest())
    return keys


def _read_entry(entry: Path, state: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Image and label of a complete entry that was made in `state`; else None."""
    try:
        with open_regular(entry) as file:
            # Entries are replaced, never changed, so the map stays as it is.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # missing; empty
        return None
    if len(content) < HEADER_BYTES:
        return None
    *made_in, height, width = np.frombuffer(content, dtype=np.int64, count=6).tolist()
    if made_in != state or min(height, width) < 1:
        return None
    if len(content) != HEADER_BYTES + 4 * height * width:
        return None
    pixels = np.frombuffer(content, dtype=np.uint8, offset=HEADER_BYTES)
    split = 3 * height * width
    return pixels[:split].reshape(height, width, 3), pixels[split:].reshape(height, width)
