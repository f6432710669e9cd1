"""Images through readers, the device and writers, each of which works while the others do.

    jobs -> `read` in threads -> `device` in this thread, images of one size together
         -> `write` in threads -> what it returns, in the order of the jobs

Only a few images wait between two of them, so memory does not depend on how many there are.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Protocol, TypeVar

import numpy as np

from utils.prediction.sources import Job

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Work:
    """An image on its way, with what was made of it so far."""

    job: Job
    problem: str = ""  # why it has no files or, if `is_written`, no score
    is_written: bool = False
    image: Any = None  # array (H,W,3) uint8
    staged: Any = None  # the image as the device takes it
    labels: Any = None  # array (H,W) uint8
    confidence: Any = None  # array (H,W) uint8, if asked for: the label's probability, 255 is 1
    row: Sequence[object] = ()  # of the summary, if asked for


class Device(Protocol):
    """What turns images into labels."""

    batch_size: int  # how many images of one size are launched together; it may fall
    size: tuple[int, int] | None  # the only (H,W) that it takes
    in_flight: int  # how many launches may wait for `finish`

    def stage(self, image: np.ndarray) -> Any:
        """The image as `launch` takes it; called in the threads that read."""

    def launch(self, images: Sequence[Any]) -> Any:
        """Start to predict images of one size; returns what `finish` takes."""

    def finish(self, launched: Any) -> Iterable[tuple[Any, Any]]:
        """For each image of a launch `labels` and `confidence`; see `Work`."""


class Clock:
    """Where the main thread's time goes: it waits for images, for the device, and for files."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds = {"decode": 0.0, "device": 0.0, "write": 0.0}

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Count the time within."""
        begin = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - begin

    def report(self, num_images: int) -> str:
        """Images per second, and how much of the time each stage took."""
        total = time.perf_counter() - self.start
        shares = ", ".join(f"{stage} {100 * s / total:.0f} %" for stage, s in self.seconds.items())
        return f"{num_images} images in {total:.1f} s, {num_images / total:.3g} images/s: {shares}"


def run(
    jobs: Sequence[Job],
    *,
    read: Callable[[Work], None],
    device: Device,
    write: Callable[[Work], None],
    num_threads: int,
    clock: Clock,
) -> Iterator[Work]:
    """Each job's work when it is done, in order; `num_threads` read and as many write.

    `read` sets `image` or `problem`. If this ends early, it waits for files that are being written.
    """

    def read_and_stage(job: Job) -> Work:
        work = Work(job)
        read(work)
        work.staged = None if work.problem else device.stage(work.image)
        return work

    def write_and_drop(work: Work) -> Work:
        if not work.problem:
            write(work)
        work.image = work.labels = work.confidence = None
        return work

    room = num_threads + device.batch_size
    readers, writers = ThreadPoolExecutor(num_threads), ThreadPoolExecutor(num_threads)
    # Reading turns Pillow's warnings off for each file, but Python can't do so for one thread.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        try:
            works = _ahead(readers, read_and_stage, jobs, room, clock, "decode")
            works = _through_device(works, device, clock)
            yield from _ahead(writers, write_and_drop, works, room, clock, "write")
        finally:
            for pool in (readers, writers):
                pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[T], R],
    items: Iterable[T],
    room: int,
    clock: Clock,
    stage: str,
) -> Iterator[R]:
    """`function` of each item, in order; up to `room` items are ahead of what the caller has."""
    waiting: deque[Future[R]] = deque()

    def first() -> R:
        with clock.at(stage):
            return waiting.popleft().result()

    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > room:
            yield first()
    while waiting:
        yield first()


def _through_device(works: Iterable[Work], device: Device, clock: Clock) -> Iterator[Work]:
    """The same works with their results; those with a problem pass."""
    launched: deque[tuple[list[Work], Any]] = deque()

    def first() -> list[Work]:
        group, running = launched.popleft()
        with clock.at("device"):
            results = [] if running is None else list(device.finish(running))
        for work, result in zip(group, results, strict=False):  # a problem has no result
            work.labels, work.confidence = result
            work.staged = None
        return group

    for group in _groups(works, device):
        images = [work.staged for work in group if not work.problem]
        with clock.at("device"):
            launched.append((group, device.launch(images) if images else None))
        if len(launched) > device.in_flight:
            yield from first()
    while launched:
        yield from first()


def _groups(works: Iterable[Work], device: Device) -> Iterator[list[Work]]:
    """Works next to each other whose images have one size, up to a batch of them."""
    for _, same in groupby(works, key=lambda work: np.shape(work.image)):
        while group := list(islice(same, device.batch_size)):
            yield group
