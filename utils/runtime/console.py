"""How the program prints, and how it words lists and sizes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tqdm import tqdm


def say(text: str, *, error: bool = False) -> None:
    """Print a line to stdout (or stderr) at once; a progress bar on the screen stays whole."""
    stream = sys.stderr if error else sys.stdout
    with tqdm.external_write_mode(file=stream):
        print(text, file=stream, flush=True)


def list_names(names: Sequence[str], *, shown: int = 8) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def size_text(num_bytes: float) -> str:
    """A number of bytes in the unit that suits it: `1.5 GiB`, `12.0 MiB`, `3 bytes`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
