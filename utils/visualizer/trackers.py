"""Trackers record or show what a run does: scalars, tables, samples, confusion and texts.

The training loop talks to one `Trackers`, which passes everything on to each tracker in it. An
empty `Trackers` does nothing. `history.replay` tells a tracker of a run from its record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partialmethod

import numpy as np

from utils.runtime.console import say

from .samples import ValidatedSample


class Tracker:
    """What a tracker is told; this one ignores it.

    After a validation come scalars, table, confusion, and samples.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record named values of a step; docs/runs.md lists them. NaN is undefined."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Record rows, such as the scores of each class ("classes")."""

    def confusion(self, step: int, counts: np.ndarray, class_names: Sequence[str]) -> None:
        """Record a validation's pixels, int64 (C, C); row: ground truth, column: prediction."""

    def samples(
        self,
        step: int,
        samples: Sequence[ValidatedSample],
        class_names: Sequence[str],
        palette: np.ndarray,
    ) -> None:
        """Show images of a validation; `palette` (256, 3) uint8 has the colors of the classes."""

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show one picture, (H, W, 3) uint8, such as the first batch ("train_batch")."""

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        """Show named values, such as the options."""

    def close(self) -> None:
        """End what is open."""


class Trackers(Tracker):
    """Several trackers as one. If one of them can't write something, only that is lost."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def _tell(self, what: str, *values: object) -> None:
        for tracker in self.trackers:
            with tolerate_write_errors():
                getattr(tracker, what)(*values)


for _name in ("scalars", "table", "confusion", "samples", "image", "text", "close"):
    setattr(Trackers, _name, partialmethod(Trackers._tell, _name))


@contextmanager
def tolerate_write_errors() -> Iterator[None]:
    """Go on after an error in writing, mostly a full disk, and print what could not be written.

    A ValueError says that somebody has damaged the files of the run.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        say(f"could not write: {error}; the run continues", error=True)
