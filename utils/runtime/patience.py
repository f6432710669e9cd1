"""Says when something that is waited for does not come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from utils.runtime.console import say

T = TypeVar("T")


def complaining(items: Iterable[T], seconds: float, line: Callable[[], str]) -> Iterator[T]:
    """Yield the items; once for each that takes longer than `seconds`, print a line."""
    asked: list[float] = []  # when the item that is waited for was asked for
    ended = threading.Event()

    def watch() -> None:
        said = 0.0
        while not ended.wait(seconds / 4):
            for since in asked[:]:
                if since != said and time.monotonic() - since > seconds:
                    said = since
                    say(f"{line()} ({seconds:.0f} s so far)", error=True)

    iterator = iter(items)
    threading.Thread(target=watch, name="patience", daemon=True).start()
    try:
        while True:
            asked.append(time.monotonic())
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                asked.clear()
            yield item
    finally:
        ended.set()
