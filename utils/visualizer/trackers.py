"""Trackers record or show what a run does: scalars, images, tables, figures and texts.

The training loop talks to one `Trackers`, which passes everything on to each tracker in it. An
empty `Trackers` does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.runtime.console import say


class Tracker(Protocol):
    """What every tracker can do."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show an image, (H, W, 3) uint8."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, object]]) -> None: ...

    def figure(self, name: str, step: int, path: Path) -> None:
        """Show a PNG file."""

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        """Show named values, such as the options."""

    def close(self) -> None: ...


class Trackers:
    """Several trackers as one. If one of them can't write something, only that is lost."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tell("scalars", step, values)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        self._tell("image", name, step, image)

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        self._tell("table", name, step, rows)

    def figure(self, name: str, step: int, path: Path) -> None:
        self._tell("figure", name, step, path)

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        self._tell("text", name, rows)

    def close(self) -> None:
        self._tell("close")

    def _tell(self, what: str, *values: object) -> None:
        for tracker in self.trackers:
            with tolerate_write_errors():
                getattr(tracker, what)(*values)


@contextmanager
def tolerate_write_errors() -> Iterator[None]:
    """Go on after a write error, mostly a full disk, and print what could not be written."""
    try:
        yield
    except OSError as error:
        say(f"could not write: {error}; the run continues", error=True)
