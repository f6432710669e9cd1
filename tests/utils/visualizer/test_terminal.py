from __future__ import annotations

import pytest

from utils.visualizer import terminal as module
from utils.visualizer.terminal import Progress


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "perf_counter", made)
    return made


def slow_batches(clock: Clock, count: int, wait: float):
    for number in range(count):
        clock.now += wait
        yield number


def test_speed_counts_every_step_since_the_last_report(clock: Clock) -> None:
    progress = Progress(10)
    for number in progress.track(slow_batches(clock, 4, wait=1.0)):
        clock.now += 3.0 if number < 2 else 1.0
        progress.count(8)
        if number == 1:
            progress.speed()
    assert progress.speed() == {"images/s": 16 / 4, "data wait": 2 / 4}
    assert progress.step == 4


def test_a_pause_is_left_out(clock: Clock) -> None:
    progress = Progress(10)
    for number in progress.track(slow_batches(clock, 2, wait=0.0)):
        clock.now += 2.0
        progress.count(4)
        progress.speed() if number == 0 else None
        clock.now += 100.0 if number == 0 else 0.0
        progress.restart() if number == 0 else None
    assert progress.speed()["images/s"] == 2.0


def test_a_log_gets_plain_lines_with_the_time_left(clock: Clock, capsys) -> None:
    progress = Progress(10)
    for _ in progress.track(slow_batches(clock, 2, wait=0.0)):
        clock.now += 30.0
        progress.count(2)
    progress.report(2, {"loss": 0.5, "lr": 0.01, **progress.speed()})
    line = capsys.readouterr().out
    assert line == (
        "step 2/10  loss 0.5000  lr 1.00e-02  0.1 images/s  data wait 0 %  time left 0:04:00\n"
    )
    Progress(10, quiet=True).report(1, {"loss": 0, "lr": 0, "images/s": 0, "data wait": 0})
    assert capsys.readouterr().out == ""


def test_a_slow_data_set_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def reports(*waits: float, quiet: bool = False) -> list[str]:
        progress = Progress(10, quiet=quiet, hint="try this")
        progress.speed()
        for step, wait in enumerate(waits):
            values = {"loss": 0.0, "lr": 0.0, "images/s": 0.0, "data wait": wait}
            progress.report(step, values)
        return [line for line in capsys.readouterr().out.splitlines() if "waits" in line]

    told = ["the network waits for data 45 % of the time; try this"]
    assert reports(0.9, 0.1, 0.45, 0.5) == told
    assert reports(0.9, 0.3, 0.1) == []  # while the loader's processes start, it has to wait
    assert reports(0.9, 0.9, quiet=True) == []
