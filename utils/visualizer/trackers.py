"""What a training run tells the outside: the tracker protocol, and several trackers as one.

A tracker takes scalars, images, tables, figures and texts. The training loop talks to one tracker,
a `Trackers` that passes everything on; an empty one is the tracker that is switched off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.runtime.console import say


class Tracker(Protocol):
    """What the training loop tells the outside."""

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
    """Several trackers as one; what one of them can't write costs that, not the run."""

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
            with lets_writing_fail():
                getattr(tracker, what)(*values)


@contextmanager
def lets_writing_fail() -> Iterator[None]:
    """Say what could not be written, a full disk mostly, and go on."""
    try:
        yield
    except OSError as error:
        say(f"not written: {error}; the run goes on", error=True)
