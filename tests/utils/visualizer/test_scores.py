"""What the terminal shows of a validation."""

from __future__ import annotations

import math
import sys

import pytest

from utils.visualizer.scores import class_table, summary


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
