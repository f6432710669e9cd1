"""Readers, the device and writers at once: order, bounds, and what happens when one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from utils.prediction import Clock, Job, Work, run

WAIT = 20  # seconds, of which a correct pipeline needs none


class Double:
    """A device that notes what it is given; its label of an image is the image's first value."""

    def __init__(self, *, batch_size: int = 1, in_flight: int = 0) -> None:
        self.batch_size, self.in_flight = batch_size, in_flight
        self.launched: list[list[int]] = []
        self.finished = 0

    def stage(self, image: np.ndarray) -> np.ndarray:
        return image

    def launch(self, images: Sequence[np.ndarray]) -> list[int]:
        assert len({image.shape for image in images}) == 1
        self.launched.append([int(image.flat[0]) for image in images])
        return self.launched[-1]

    def finish(self, launched: list[int]) -> list[tuple[int, None]]:
        self.finished += 1
        assert len(self.launched) - self.finished <= self.in_flight
        return [(value, None) for value in launched]


def jobs(count: int) -> list[Job]:
    return [Job(Path(str(number)), Path(str(number)), {}) for number in range(count)]


def fill(work: Work, side: int = 2) -> None:
    work.image = np.full((side, 2, 3), int(work.job.image.name), np.int64)


def execute(
    count: int,
    device: Double,
    *,
    read: Callable[[Work], None] = fill,
    write: Callable[[Work], None] = lambda work: None,
    num_threads: int = 3,
) -> list[Work]:
    works = run(
        jobs(count), read=read, device=device, write=write, num_threads=num_threads, clock=Clock()
    )
    return list(works)


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2])])
def test_order_and_batches(in_flight: int, batch_size: int, sizes: list[int]) -> None:
    written: dict[str, int] = {}
    device = Double(batch_size=batch_size, in_flight=in_flight)
    works = execute(10, device, write=lambda w: written.update({w.job.image.name: w.labels}))
    assert [work.job.image.name for work in works] == [str(number) for number in range(10)]
    assert written == {str(number): number for number in range(10)}
    assert list(map(len, device.launched)) == sizes
    assert all(work.image is None and work.labels is None for work in works)


def test_only_neighbors_of_one_size_are_a_batch_and_a_bad_image_is_passed_on() -> None:
    def read(work: Work) -> None:
        number = int(work.job.image.name)
        if number == 6:
            work.problem = "bad"
        else:
            fill(work, side=3 if number in (3, 4) else 2)

    device, written = Double(batch_size=4), []
    works = execute(9, device, read=read, write=lambda work: written.append(work.labels))
    assert device.launched == [[0, 1, 2], [3, 4], [5], [7, 8]]
    assert [work.problem for work in works] == ["", "", "", "", "", "", "bad", "", ""]
    assert sorted(written) == [0, 1, 2, 3, 4, 5, 7, 8]


def test_readers_and_writers_work_at_the_same_time() -> None:
    """Each stage waits until as many of it work as there are threads, which one alone can't."""
    reading, writing = threading.Barrier(3), threading.Barrier(3)

    def read(work: Work) -> None:
        reading.wait(WAIT)
        fill(work)

    execute(9, Double(), read=read, write=lambda work: bool(writing.wait(WAIT)) or None)


def test_the_device_waits_for_no_writer() -> None:
    device, later = Double(), threading.Event()

    def write(work: Work) -> None:
        if work.labels == 0:
            assert later.wait(WAIT), "the second image was never launched"
        elif work.labels == 2:
            later.set()

    execute(3, device, write=write, num_threads=2)


@pytest.mark.parametrize("slow", ["read", "write"])
def test_few_images_are_in_memory_at_once(slow: str) -> None:
    lock, alive, peak = threading.Lock(), set(), [0]

    def read(work: Work) -> None:
        with lock:
            alive.add(work.job.image.name)
            peak[0] = max(peak[0], len(alive))
        fill(work)

    def write(work: Work) -> None:
        if slow == "write":
            threading.Event().wait(0.002)
        with lock:
            alive.discard(work.job.image.name)

    execute(200, Double(batch_size=2, in_flight=1), read=read, write=write, num_threads=2)
    assert peak[0] <= 16


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
@pytest.mark.parametrize("stage", ["read", "launch", "write"])
def test_an_error_ends_it_when_running_files_are_whole(stage: str, error: Exception) -> None:
    begun, done = set(), set()

    def fail(work: Work) -> None:
        if work.job.image.name == "5":
            raise error

    def read(work: Work) -> None:
        fill(work)
        if stage == "read":
            fail(work)

    def write(work: Work) -> None:
        if stage == "write":
            fail(work)
        begun.add(work.job.image.name)
        threading.Event().wait(0.01)
        done.add(work.job.image.name)

    device = Double()
    if stage == "launch":
        launch = device.launch

        def failing(images: Sequence[np.ndarray]) -> list[int]:
            if images[0].flat[0] == 5:
                raise error
            return launch(images)

        device.launch = failing
    with pytest.raises(type(error)):
        execute(50, device, read=read, write=write)
    assert begun == done and len(begun) < 20
    assert threading.active_count() == 1 or all(
        "ThreadPool" not in thread.name for thread in threading.enumerate()
    )


def test_the_clock_says_where_the_time_went() -> None:
    clock = Clock()
    clock.start -= 10
    clock.seconds.update(decode=1.0, device=8.0, write=0.5)
    assert clock.report(20) == (
        "20 images in 10.0 s, 2 images/s: decode 10 %, device 80 %, write 5 %"
    )
