"""The files that show a run, made anew from its record after each validation."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.runtime.files import write_bytes

from . import figures
from .history import SCORE, tables
from .record import Record
from .report import save_report

NAMES = {SCORE: "miou", "Mean IoU": "miou_of_predecessor"}  # columns with names of their own


def save_views(folder: Path) -> None:
    """Write pictures, tables and report.html into a run's folder.

    Raises ValueError if the files that the run left there are damaged.
    """
    record = Record.read(folder)
    figures.save_curves(record.history, folder / "curves.png", title=record.title)
    save_history_csv(record.history, folder / "history.csv")
    if confusions := tables(record.history, "confusion"):
        line = confusions[max(confusions)]
        figures.save_confusion(
            np.array(line["rows"]),
            line["class_names"],
            folder / "confusion.png",
            title=f"{record.title}, step {line['step']:,}",
        )
        save_confusion_csv(record.history, folder / "confusion.csv")
    save_report(folder)


def save_history_csv(history: Sequence[Mapping], path: Path) -> None:
    """Write a row for each validation: its scores, the IoU of each class, its training values.

    A column has the name of its field in history.jsonl, in lower case and with underscores, but
    the score that ranks the runs is `miou`. Of equal names, later ones get a number.
    """
    rows: dict[int, dict[str, object]] = {}
    validated = {line["step"] for line in history if SCORE in line}
    classes = tables(history, "classes")
    for line in history:
        if line["step"] in validated and "table" not in line:
            rows.setdefault(line["step"], {}).update(line)
    for step, row in rows.items():
        found = classes[step]["rows"] if step in classes else []
        row.update({f"IoU {item.get('class')}": item.get("IoU") for item in found})
    columns = list(dict.fromkeys(name for row in rows.values() for name in row)) or ["step"]
    names: list[str] = []
    for column in columns:
        name = NAMES.get(column) or re.sub(r"\W+", "_", column.lower()).strip("_")
        others = (f"{name}_{number}" for number in range(2, len(columns) + 2))
        names.append(next(new for new in (name, *others) if new not in names))
    _write(path, [names, *([row.get(name) for name in columns] for row in rows.values())])


def save_confusion_csv(history: Sequence[Mapping], path: Path) -> None:
    """Write the pixels of the last validation: a row for each true class, a column a prediction."""
    confusions = tables(history, "confusion")
    line = confusions[max(confusions)]
    names = line["class_names"]
    rows = [[name, *counts] for name, counts in zip(names, line["rows"], strict=True)]
    _write(path, [["ground truth", *names], *rows])


def _write(path: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))
