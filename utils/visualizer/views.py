"""The files that show a run, made anew from its record after each validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import csv_files, figures
from .history import tables
from .record import Record
from .report import save_report


def save_views(folder: Path) -> None:
    """Write pictures, tables and report.html into a run's folder.

    Raises ValueError if the files that the run left there are damaged.
    """
    record = Record.read(folder)
    figures.save_curves(record.history, folder / "curves.png", title=record.title)
    csv_files.save_history_csv(record.history, folder / "history.csv")
    if confusions := tables(record.history, "confusion"):
        line = confusions[max(confusions)]
        figures.save_confusion(
            np.array(line["rows"]),
            line["class_names"],
            folder / "confusion.png",
            title=f"{record.title}, step {line['step']:,}",
        )
        csv_files.save_confusion_csv(record.history, folder / "confusion.csv")
    save_report(folder)
