"""How the program prints, and how it words lists and sizes."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from tqdm import tqdm

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def say(text: str, *, error: bool = False) -> None:
    """Print `text` to stdout (or stderr) at once; a progress bar on the screen stays whole.

    An error is one line, whatever names it holds. Where nobody can read it, the text is lost.
    """
    stream = sys.stderr if error else sys.stdout
    text = one_line(text) if error else text
    # Names of files need not be text, and the terminal may not have all characters.
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        with tqdm.external_write_mode(file=stream):
            print(text, file=stream, flush=True)
    except OSError as failure:
        if failure.errno in (errno.EPIPE, errno.EIO):  # the reader or the terminal is gone
            _discard(stream)


def _discard(stream: TextIO) -> None:
    """Let what is printed from now on, and what waits to be, go nowhere."""
    with suppress(OSError):  # it is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def one_line(text: str) -> str:
    """`text` with line ends and other control characters, as in names of files, as escapes."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def list_names(names: Sequence[str], *, shown: int = 8) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def shortened(text: str, length: int) -> str:
    """The text; one of more than `length` characters loses its middle."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2 - 1]}..{text[len(text) - (length - length // 2 - 1) :]}"


def size_text(num_bytes: float) -> str:
    """A number of bytes in the unit that suits it: `1.5 GiB`, `12.0 MiB`, `3 bytes`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
