"""What the terminal shows of a run: a tqdm bar, or plain lines where the output is no terminal."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

from utils.runtime.console import say

T = TypeVar("T")


def plain_warnings() -> None:
    """Show warnings as one line each, for people who did not write the code."""
    warnings.formatwarning = lambda message, *_: f"note: {message}\n"
    # Where fp16's scaler leaves out the very first update, torch takes that for a mistake.
    warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before")


class Progress:
    """Counts steps, and measures images per second and the share of time spent waiting for data."""

    def __init__(self, total: int, *, start: int = 0, quiet: bool = False) -> None:
        self.total, self.step = total, start
        self.quiet = quiet
        # Both: a log that stdout goes to wants the lines, a log of stderr no bar.
        self.on_terminal = sys.stderr.isatty() and sys.stdout.isatty() and not quiet
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=not self.on_terminal, leave=True
        )
        self._restart()

    def _restart(self) -> None:
        self._steps = self._images = 0
        self._begin, self._waited = time.perf_counter(), 0.0

    def track(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield from ``batches``, timing how long each takes to come."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch
            self.step += 1
            self.bar.update(1)

    def count(self, num_images: int) -> None:
        """Count the images of the step that is being done."""
        self._images += num_images
        self._steps += 1

    def speed(self) -> dict[str, float]:
        """``images/s`` and ``data wait`` (share, 0..1) since the last call."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        self._seconds_per_step = seconds / max(self._steps, 1)
        result = {"images/s": self._images / seconds, "data wait": self._waited / seconds}
        self._restart()
        return result

    def report(self, step: int, values: dict[str, float], *, num_bad: int = 0) -> None:
        """Show ``values`` (loss, lr, images/s, data wait) of ``step`` on the bar or as a line.

        ``num_bad`` is the number of steps left out for a NaN or infinite loss.
        """
        if num_bad and not self.quiet:
            say(f"step {step}: {num_bad} step(s) left out, their loss was NaN or infinite")
        shown = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['images/s']:.1f} images/s"
        )
        if self.on_terminal:
            self.bar.set_postfix_str(shown)
            return
        if self.quiet:
            return
        left = timedelta(seconds=round((self.total - step) * self._seconds_per_step))
        wait = f"data wait {100 * values['data wait']:.0f} %"
        say(f"step {step}/{self.total}  {shown}  {wait}  time left {left}")

    def pause(self) -> None:
        """Leave the time since the last report or pause out of the speed: something else ran."""
        self._begin, self._waited = time.perf_counter(), 0.0
        self._steps = self._images = 0

    def close(self) -> None:
        self.bar.close()
