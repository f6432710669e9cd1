from __future__ import annotations

import math
import sys

import pytest
from tqdm import std

from utils.visualizer import terminal as module
from utils.visualizer.terminal import Progress, class_table, summary


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
            progress.speed(number + 1)
    found = progress.speed(4)
    assert (found["images/s"], found["data wait"]) == (16 / 4, 2 / 4)
    assert progress.step == 4


def test_a_pause_is_left_out(clock: Clock) -> None:
    progress = Progress(10)
    for number in progress.track(slow_batches(clock, 2, wait=0.0)):
        clock.now += 2.0
        progress.count(4)
        progress.speed(number + 1) if number == 0 else None
        clock.now += 100.0 if number == 0 else 0.0
        progress.restart() if number == 0 else None
    assert progress.speed(2)["images/s"] == 2.0


def test_a_log_gets_plain_lines_with_the_time_left(clock: Clock, capsys) -> None:
    progress = Progress(10)
    for _ in progress.track(slow_batches(clock, 2, wait=0.0)):
        clock.now += 30.0
        progress.count(2)
    progress.report(2, {"loss": 0.5, "lr": 0.01, **progress.speed(2)})
    line = capsys.readouterr().out
    assert line == (
        "step 2/10  loss 0.5000  lr 1.00e-02  0.1 images/s  data wait 0 %  time left >= 0:04:00\n"
    )
    Progress(10, quiet=True).report(
        1, dict.fromkeys(("loss", "lr", "images/s", "data wait", "time left"), 0)
    )
    assert capsys.readouterr().out == ""


def test_a_slow_data_set_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def reports(*waits: float, quiet: bool = False) -> list[str]:
        progress = Progress(10, quiet=quiet, hint="try this")
        progress.speed(1)
        for step, wait in enumerate(waits):
            values = {"loss": 0.0, "lr": 0.0, "images/s": 0.0, "data wait": wait}
            values["time left"] = 0.0
            progress.report(step, values)
        return [line for line in capsys.readouterr().out.splitlines() if "waits" in line]

    told = ["the network waits for data 45 % of the time; try this"]
    assert reports(0.9, 0.1, 0.45, 0.5) == told
    assert reports(0.9, 0.3, 0.1) == []  # while the loader's processes start, it has to wait
    assert reports(0.9, 0.9, quiet=True) == []


def test_the_time_left_has_the_validations_in_it(clock: Clock) -> None:
    progress = Progress(100, val_interval=30)

    def at(step: int) -> float:
        clock.now += 10.0
        progress.count(1)
        return progress.speed(step)["time left"]

    assert at(30) == 700  # without the validations, of which none took place yet
    clock.now += 50.0
    progress.restart(validated=True)
    assert at(31) == 690 + 3 * 50  # at 60, 90 and 100
    assert at(60) == 400 + 3 * 50  # the one at 60 comes next
    clock.now += 70.0
    progress.restart(validated=True)
    assert at(61) == 390 + 2 * 60  # their mean
    assert at(100) == 60


@pytest.mark.parametrize("total", [720, 30_000, 10**9])
def test_a_bar_of_ten_characters_fits_into_80(
    total: int, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    # A new pseudo terminal says that it has no rows.
    monkeypatch.setattr(std, "_screen_shape_wrapper", lambda: lambda file: (80, -1))
    progress = Progress(total, start=total // 2)
    values = {"loss": 0.8349, "lr": 6.1e-4, "images/s": 109.4, "data wait": 0.071}
    capsys.readouterr()
    progress.report(total // 2, {**values, "time left": 5400.0}, best=0.4123)
    shown = capsys.readouterr().err.split("\r")[-1]
    progress.close()
    assert len(shown.rstrip("\n")) < 80
    assert len(shown.split("|")[1]) >= 10 and f"{total // 2}/{total}" in shown
    for part in (">=1:30:00", "loss 0.83", "lr 6e-4", "109 img/s"):
        assert part in shown
    if total < 10**9:
        assert "wait 7%" in shown and "best .412" in shown


def row(name: str, iou: float, pixels: int) -> dict:
    return {"class": name, "IoU": iou, "Dice": 0.5, "precision": 1, "recall": iou, "pixels": pixels}


def line(score: float, past: list[float]) -> str:
    return summary(score, past, accuracy=0.79, loss=1.234, images=1101, seconds=12.34)


def test_absent_classes_share_a_line_and_long_names_are_cut() -> None:
    rows = [
        row("road", 0.75, 2000),
        row("a" * 30, math.nan, 5),
        row("sky", 0.0, 0),
        row("car", 0, 0),
    ]
    assert class_table(rows).splitlines() == [
        "class                        IoU    Dice  precision  recall  pixels",
        "road                      0.7500  0.5000     1.0000  0.7500   2,000",
        "aaaaaaaaaaa..aaaaaaaaaaa       -  0.5000     1.0000       -       5",
        "2 absent: sky, car",
    ]
    many = class_table([row(f"class number {i}", 0.0, 0) for i in range(150)]).splitlines()
    assert len(many) == 2 and len(many[1]) <= 80 and many[1].endswith(" ...")


@pytest.mark.parametrize(
    ("score", "past", "expected"),
    [
        (0.412, [], "mIoU 0.412 |"),
        (0.412, [0.4, 0.381], "mIoU 0.412 (+0.031, best so far) |"),
        (0.35, [0.4, 0.381], "mIoU 0.350 (-0.031, best 0.400) |"),
        (0.4, [math.nan], "mIoU 0.400 (+nan, best so far) |"),
        (math.nan, [0.4], "mIoU nan (+nan, best 0.400) |"),
    ],
)
def test_summary(score: float, past: list[float], expected: str) -> None:
    shown = line(score, past)
    assert shown.startswith(expected)
    assert shown.endswith("| pixel accuracy 0.790 | loss 1.2340 | 1,101 images in 12.3 s")


def test_bold_and_dim_on_a_terminal_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("road", 0.75, 2000), row("sky", 0.0, 0)]
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033" not in line(0.5, [0.4]) + class_table(rows)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert line(0.5, [0.4]).startswith("\033[1mmIoU 0.500 (+0.100, best so far)\033[0m")
    assert "\033" not in line(0.3, [0.4])
    assert class_table(rows).endswith("\033[2m1 absent: sky\033[0m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in line(0.5, [0.4]) + class_table(rows)
