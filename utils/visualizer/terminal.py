"""What the terminal shows of a run: a progress bar or plain lines, and tables of the classes."""

from __future__ import annotations

import math
import os
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from tqdm import tqdm

from utils.runtime.console import say, shortened

T = TypeVar("T")
SLOW_DATA = 0.3  # share of the time that the network waits for data
MIN_BAR = 10  # characters
WIDTH = 80
MAX_NAME = 24
BOLD, DIM = "1", "2"
BAR_FORMAT = "|{{bar:{width}}}|{{n_fmt}}/{{total_fmt}} {{desc}}"


def plain_warnings() -> None:
    """Show each warning as one line, without the code that caused it."""
    warnings.formatwarning = lambda message, *_: f"note: {message}\n"
    # With fp16, the scaler may skip the first update; torch then warns about the order of calls.
    warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)` before")


class Progress:
    """Counts steps, and measures speed, waiting for data, and the time that is left.

    `val_interval` are the steps between validations, whose time is part of what is left. Where the
    share of waiting is large, `hint` is printed once.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        val_interval: int | None = None,
        quiet: bool = False,
        hint: str = "",
    ) -> None:
        self.total, self.step, self.val_interval = total, start, val_interval or total
        self.quiet = quiet
        self._hint, self._num_reports = "" if quiet else hint, 0
        # If stdout is a file, it needs the lines; if stderr is one, it must not get the bar.
        self.on_terminal = sys.stderr.isatty() and sys.stdout.isatty() and not quiet
        self.bar = tqdm(
            total=total,
            initial=start,
            disable=not self.on_terminal,
            leave=True,
            ncols=80,
            nrows=24,
            bar_format=BAR_FORMAT.format(width=MIN_BAR),
        )
        # tqdm's own function has no default for a terminal that says it has 0 rows or columns.
        vars(self.bar)["dynamic_ncols"] = lambda file: shutil.get_terminal_size((80, 24))
        self._pace: float | None = None  # seconds a step, the newest steps count most
        self._pauses: list[float] = []  # seconds of each validation, with what follows it
        self._reported = start
        self._restart()

    def _restart(self) -> None:
        self._steps = self._images = 0
        self._begin, self._waited = time.perf_counter(), 0.0

    def restart(self, *, validated: bool = False) -> None:
        """Measure the speed from now on: what ran since the last report was not training."""
        if validated:
            self._pauses.append(time.perf_counter() - self._begin)
        self._restart()

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

    def speed(self, step: int) -> dict[str, float]:
        """Images per second and the share (0..1) of waiting for data since the last call.

        Also the seconds that are left after `step`; before the first validation without those of
        the validations.
        """
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        pace = seconds / max(self._steps, 1)
        self._pace = pace if self._pace is None else 0.7 * self._pace + 0.3 * pace
        result = {"images/s": self._images / seconds, "data wait": self._waited / seconds}
        self._restart()
        return result | {"time left": self._time_left(step)}

    def _time_left(self, step: int) -> float:
        # A validation at `step` itself is still to come.
        interval = self.val_interval
        to_come = self.total // interval - (step - 1) // interval
        to_come += self.total % interval != 0  # the one at the end
        pause = sum(self._pauses) / len(self._pauses) if self._pauses else 0.0
        return (self.total - step) * (self._pace or 0.0) + to_come * pause

    def report(
        self, step: int, values: Mapping[str, float], *, best: float = 0.0, num_bad: int = 0
    ) -> None:
        """Show values of a step (see docs/runs.md) on the bar or as a line.

        `best` is the best mean IoU so far, `num_bad` the number of steps that were skipped for a
        NaN or infinite loss.
        """
        self._reported = step
        if num_bad and not self.quiet:
            say(f"step {step}: skipped {num_bad} step(s) with a NaN or infinite loss")
        wait = f"{100 * values['data wait']:.0f} %"
        self._num_reports += 1  # in the first one is the time that loader processes take to start
        if self._hint and self._num_reports > 1 and values["data wait"] > SLOW_DATA:
            say(f"the network waits for data {wait} of the time; {self._hint}")
            self._hint = ""
        left = f"{'' if self._pauses else '>= '}{timedelta(seconds=round(values['time left']))}"
        if self.on_terminal:
            self._show_bar(values, left.replace(" ", ""), best)
        elif not self.quiet:
            say(
                f"step {step}/{self.total}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
                f"{values['images/s']:.1f} images/s  data wait {wait}  "
                f"time left {left}"
            )

    def _show_bar(self, values: Mapping[str, float], left: str, best: float) -> None:
        rate = f"{values['lr']:.0e}".replace("e-0", "e-")
        parts = {
            "left": left,
            "loss": f"loss {values['loss']:.2f}",
            "lr": f"lr {rate}",
            "speed": f"{values['images/s']:.3g} img/s",
            "wait": f"wait {100 * values['data wait']:.0f}%" if values["data wait"] > 0.05 else "",
            "best": f"best {best:.3f}".replace("0.", ".", 1) if best else "",
        }
        columns = shutil.get_terminal_size().columns - 1  # tqdm leaves the last one free
        room = columns - 2 * len(str(self.total)) - len("||/ ")
        for least in ("wait", "best", "speed"):  # what may be left out on a narrow terminal
            shown = " ".join(filter(None, parts.values()))
            if len(shown) + MIN_BAR <= room:
                break
            del parts[least]
        else:
            shown = " ".join(filter(None, parts.values()))
        width = max(MIN_BAR, room - len(shown))
        self.bar.bar_format = BAR_FORMAT.format(width=width)
        self.bar.set_description_str(shown)

    def close(self) -> None:
        """End the bar at the step that was reported last."""
        self.bar.n = max(self.bar.n, self._reported)
        self.bar.close()


def styled(text: str, style: str) -> str:
    """The text in bold or dim, if it goes to a terminal and NO_COLOR does not forbid it."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[{style}m{text}\033[0m"


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An aligned table of the classes' scores, as in `StreamSegMetrics.class_rows`.

    Classes without ground truth share one line at the end; "-" is a score that is not defined.
    """
    table = [["class", "IoU", "Dice", "precision", "recall", "pixels"]]
    for row in rows:
        name, *scores, pixels = row.values()
        if pixels:
            cells = ["-" if math.isnan(score) else f"{score:.4f}" for score in scores]
            table.append([shortened(name, MAX_NAME), *cells, f"{pixels:,}"])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]))
    absent = [shortened(row["class"], MAX_NAME) for row in rows if not row["pixels"]]
    if absent:
        names = textwrap.shorten(", ".join(absent), WIDTH - 14, placeholder=" ...")
        lines.append(styled(f"{len(absent)} absent: {names}", DIM))
    return "\n".join(lines)


def summary(
    score: float,
    past: Sequence[float],
    *,
    accuracy: float,
    loss: float,
    images: int,
    seconds: float,
) -> str:
    """A line with the mean IoU, how it changed, and the rest; `past` are the scores before."""
    change = "" if not past else f"{score - past[-1]:+.3f}"
    best = max((value for value in past if not math.isnan(value)), default=-1.0)
    news = "best so far" if score > best else f"best {best:.3f}"
    shown = f"mIoU {score:.3f}" + (f" ({change}, {news})" if change else "")
    if change and score > best:
        shown = styled(shown, BOLD)
    took = f"{images:,} images in {seconds:.3g} s"
    return f"{shown} | pixel accuracy {accuracy:.3f} | loss {loss:.4f} | {took}"
