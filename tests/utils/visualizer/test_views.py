"""history.csv and confusion.csv, read as a stranger's program reads them."""

from __future__ import annotations

import csv
from pathlib import Path

from utils.visualizer import SCORE
from utils.visualizer.views import save_confusion_csv, save_history_csv

HISTORY = [
    {"step": 5, "loss": 3.0, "lr backbone": 0.1, "images/s": 7.0},
    {"step": 10, "wall time": 4.5, "loss": 2.0, "lr backbone": 0.05, "images/s": 8.0},
    {"step": 10, "wall time": 9.5, SCORE: 0.25, "Mean IoU": 0.125, "validation loss": 1.5},
    {"step": 10, "table": "classes", "rows": [{"class": "road, wet", "IoU": 0.25}]},
    {
        "step": 10,
        "table": "confusion",
        "class_names": ["road, wet", "sky"],
        "rows": [[1, 2], [0, 9]],
    },
    {"step": 20, "loss": 1.0},
    {"step": 20, SCORE: None, "validation loss": 1.0},
    {"step": 20, "table": "classes", "rows": [{"class": "road, wet", "IoU": None}]},
    {
        "step": 20,
        "table": "confusion",
        "class_names": ["road, wet", "sky"],
        "rows": [[3, 4], [0, 9]],
    },
]


def read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_row_for_each_validation(tmp_path: Path) -> None:
    save_history_csv(HISTORY, tmp_path / "h.csv")
    head, first, second = read(tmp_path / "h.csv")
    one, two = dict(zip(head, first, strict=True)), dict(zip(head, second, strict=True))
    assert one == {
        "step": "10",
        "wall_time": "9.5",
        "loss": "2.0",
        "lr_backbone": "0.05",
        "images_s": "8.0",
        "miou": "0.25",
        "miou_of_predecessor": "0.125",
        "validation_loss": "1.5",
        "iou_road_wet": "0.25",
    }
    assert (two["step"], two["loss"], two["iou_road_wet"]) == ("20", "1.0", "")


def test_names_of_columns_are_unique(tmp_path: Path) -> None:
    names = ["a b", "a-b", "a b 2", "A_B"]
    rows = [{"class": name, "IoU": number} for number, name in enumerate(names)]
    save_history_csv(
        [{"step": 1, SCORE: 0.5}, {"step": 1, "table": "classes", "rows": rows}], tmp_path / "h.csv"
    )
    head, values = read(tmp_path / "h.csv")
    assert head == ["step", "miou", "iou_a_b", "iou_a_b_2", "iou_a_b_2_2", "iou_a_b_3"]
    assert values == ["1", "0.5", "0", "1", "2", "3"]


def test_the_confusion_of_the_last_validation(tmp_path: Path) -> None:
    save_confusion_csv(HISTORY, tmp_path / "c.csv")
    assert read(tmp_path / "c.csv") == [
        ["ground truth", "road, wet", "sky"],
        ["road, wet", "3", "4"],
        ["sky", "0", "9"],
    ]


def test_a_history_without_validations(tmp_path: Path) -> None:
    save_history_csv(HISTORY[:1], tmp_path / "h.csv")
    assert read(tmp_path / "h.csv") == [["step"]]
