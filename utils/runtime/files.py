"""The one way in which the program writes a file, and how it opens what somebody else made."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a FIFO or a device, which could wait for ever, is an OSError."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder is refused by open()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return open(path, "rb")


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends without an error.

    Readers see the old file or the whole new one, also after a crash. `durable` waits until the
    disk has the content, which a power cut then cannot undo. A killed process leaves a hidden
    file, see `leftovers`. Missing folders are made. OSError names `path`, also on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_hidden_name(path)}{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # not the hidden file, and not nothing
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if durable and os.name == "posix":  # the new name has to survive a power cut, too
        folder = os.open(path.parent, os.O_RDONLY)
        with suppress(OSError):  # some network drives cannot do this; the file is in place
            os.fsync(folder)
        os.close(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with atomic_write(path) as file:
        file.write(data)


def leftovers(path: Path) -> list[Path]:
    """The hidden files of writes to `path` that were killed before they ended."""
    if not path.parent.is_dir():
        return []
    names = [name for name in os.listdir(path.parent) if name.startswith(_hidden_name(path))]
    return [path.with_name(name) for name in names if name.endswith(".tmp")]


def _hidden_name(path: Path) -> str:
    """How the hidden files of `path`, and of no other file, begin."""
    # Cut, since a name may be as long as the system allows.
    return f".{path.name[:40]}.{zlib.crc32(os.fsencode(path.name)):08x}."
