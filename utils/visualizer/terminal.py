"""What the terminal shows of a run: a progress bar, or plain lines if the output is a file."""

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

SLOW_DATA = 0.3  # share of the time that the network waits for data


def plain_warnings() -> None:
    """Show each warning as one line, without the code that caused it."""
    warnings.formatwarning = lambda message, *_: f"note: {message}\n"
    # With fp16, the scaler may skip the first update; torch then warns about the order of calls.
    warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before")


class Progress:
    """Counts steps, and measures images per second and the share of time that data took to come.

    Where that share is large, `hint` is printed once.
    """

    def __init__(self, total: int, *, start: int = 0, quiet: bool = False, hint: str = "") -> None:
        self.total, self.step = total, start
        self.quiet = quiet
        self._hint, self._num_reports = "" if quiet else hint, 0
        # If stdout is a file, it needs the lines; if stderr is one, it must not get the bar.
        self.on_terminal = sys.stderr.isatty() and sys.stdout.isatty() and not quiet
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=not self.on_terminal, leave=True
        )
        self.restart()

    def restart(self) -> None:
        """Measure the speed from now on: what ran since the last report was not training."""
        self._steps = self._images = 0
        self._begin, self._waited = time.perf_counter(), 0.0

    def track(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and measure how long each takes to come."""
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
        """Count one step and its images."""
        self._images += num_images
        self._steps += 1

    def speed(self) -> dict[str, float]:
        """Images per second and the share (0..1) of waiting for data, since the last call."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        self._seconds_per_step = seconds / max(self._steps, 1)
        result = {"images/s": self._images / seconds, "data wait": self._waited / seconds}
        self.restart()
        return result

    def report(self, step: int, values: dict[str, float], *, num_bad: int = 0) -> None:
        """Show the values (loss, lr, images/s, data wait) of a step on the bar or as a line.

        `num_bad` is the number of steps that were skipped for a NaN or infinite loss.
        """
        if num_bad and not self.quiet:
            say(f"step {step}: skipped {num_bad} step(s) with a NaN or infinite loss")
        wait = f"{100 * values['data wait']:.0f} %"
        self._num_reports += 1  # in the first one is the time that loader processes take to start
        if self._hint and self._num_reports > 1 and values["data wait"] > SLOW_DATA:
            say(f"the network waits for data {wait} of the time; {self._hint}")
            self._hint = ""
        shown = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['images/s']:.1f} images/s"
        )
        if self.on_terminal:
            self.bar.set_postfix_str(shown)
            return
        if self.quiet:
            return
        left = timedelta(seconds=round((self.total - step) * self._seconds_per_step))
        say(f"step {step}/{self.total}  {shown}  data wait {wait}  time left {left}")

    def close(self) -> None:
        """Take the bar off the screen's last line."""
        self.bar.close()
