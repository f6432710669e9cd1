"""A file to which lines are added while others may read, delete or replace it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from utils.runtime.files import write_bytes


class LineFile:
    """Lines at the end of the file `path`, each on the disk as a whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._open()

    def _open(self) -> TextIO:
        return open(self.path, "a+", encoding="utf-8")  # open until close()

    def append(self, line: str) -> bool:
        """Write `line`, which ends with a line end; returns whether all lines were written anew.

        They are if somebody has deleted or replaced the file. Raises OSError, and adds nothing, if
        the disk is full.
        """
        is_new = self._restore()
        before = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())  # a checkpoint must not survive a crash that this doesn't
        except OSError as error:  # leave no half line to which the next is added
            with suppress(OSError):
                self._file.close()
            os.truncate(self.path, before)
            self._file = self._open()
            raise OSError(f"a line of {self.path}: {error}") from error
        return is_new

    def _restore(self) -> bool:
        with suppress(OSError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno())):
                return False
        self._file.seek(0)  # the system keeps a deleted file until it is closed
        write_bytes(self.path, self._file.read().encode())
        self._file.close()
        self._file = self._open()
        return True

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()
