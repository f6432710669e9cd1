"""The one way in which the program writes a file that somebody may read or need later."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends without an error.

    Readers see the old file or the whole new one, also after a crash. `durable` waits until the
    disk has the content, which a power cut then cannot undo. A killed process leaves a hidden
    file, see `leftovers`. Missing folders are made. Raises OSError as the system does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
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
    start = f".{path.name[:60]}."
    if not path.parent.is_dir():
        return []
    names = os.listdir(path.parent)
    return [path.with_name(n) for n in names if n.startswith(start) and n.endswith(".tmp")]
