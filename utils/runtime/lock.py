"""A run's lock: one process writes the run's files, and its end, however it comes, frees them."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from io import FileIO
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """The right to write a run's files; `release` gives it back, and leaves no file behind.

    The system's record lock belongs to the process that took it. Loader processes don't inherit
    it, so a run that was killed can be continued at once, while they still live. A process loses
    the lock when it closes the file, so nothing else here may open it.
    """

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._path = Path()
        self._made: list[Path] = []  # folders that were not there before, the inmost first

    def acquire(self, path: Path) -> str | None:
        """Lock the file `path`, made for this; returns a line where locking is not possible.

        Raises ValueError if another process holds the lock, or if the folder can't be made.
        """
        folder = path.parent
        self._made = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cannot make --output_dir {folder}: {error.strerror}; choose another folder"
            ) from error
        try:
            self._file = _locked(path)
        except OSError as error:
            return (
                f"cannot lock {path} ({error.strerror}): nothing keeps a second run of this name "
                "from writing the same files at the same time"
            )
        self._path = path
        return None

    def release(self) -> None:
        """Delete and free the lock, and the folders made for it if nothing was written."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
        for folder in self._made:
            with suppress(OSError):  # it is in use
                folder.rmdir()
        self._made = []


def _locked(path: Path) -> FileIO:
    """The locked file. Raises ValueError as `acquire`, and OSError where locks are not possible."""
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no such locks")
    file = FileIO(path, "a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read(200).decode(errors="replace").strip()
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        raise ValueError(
            f"another run{owner and f' ({owner})'} is writing the same files in {path.parent}; "
            "wait until it has ended, or choose another --output_dir"
        ) from error
    with suppress(OSError):  # a full disk: the lock counts, not the text
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return file
