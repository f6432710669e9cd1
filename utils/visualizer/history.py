"""The record of a run: the file `history.jsonl`, and what stands beside it in the run's folder.

It is always written; every view of the run is made from it. Each line is one JSON object::

    {"step": 10, "wall time": 41.5, "loss": 2.31, "lr": 0.0099, "images/s": 41.2, ...}
    {"step": 100, "wall time": 460.2, "Mean IoU": 0.41, "validation loss": 1.2, ...}
    {"step": 100, "table": "classes", "rows": [{"class": "road", "IoU": 0.93}, ...]}
    {"step": 100, "table": "confusion", "class_names": ["road", ...], "rows": [[90, 1], ...]}

Values that are not finite are written as null, so that every line is valid JSON. docs/runs.md
explains every field.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.runtime.console import say
from utils.runtime.files import write_bytes
from utils.runtime.line_file import LineFile

from .pictures import save_image
from .samples import ValidatedSample, delete_samples, save_samples
from .trackers import Tracker

# Runs are ranked by this score. The predecessor's "Mean IoU" gives a class without ground truth an
# IoU of 0 as soon as one pixel is predicted as it.
SCORE = "Mean IoU (classes in ground truth)"
# The values of a line that are not scores of a validation.
NO_SCORES = (
    "step",
    "wall time",
    "epoch",
    "loss",
    "lr",
    "lr backbone",
    "gradient norm",
    "images/s",
    "data wait",
    "time left",
    "peak memory",
    "validation loss",
    "validation seconds",
)
LARGEST = 2**53  # integers up to it are exact in every reader of JSON


def plain(value: object) -> object:
    """A value as JSON allows it: numpy and torch scalars become numbers, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_number(value: object) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    return value is None or (type(value) is int and abs(value) <= LARGEST)


def _is_confusion(entry: Mapping[str, Any]) -> bool:
    names = entry.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    try:
        counts = np.array(entry.get("rows"))
    except ValueError:  # rows of different lengths
        return False
    shape = (len(names), len(names))
    return counts.shape == shape and counts.dtype.kind == "i" and not (counts < 0).any()


def _problem(entry: object) -> str:
    """What is wrong with a line, as the end of a sentence; empty if nothing is."""
    if not isinstance(entry, dict) or not _is_count(entry.get("step")):
        return 'is not a JSON object with a "step"'
    if entry.get("table") == "confusion":
        return "" if _is_confusion(entry) else "holds no square table of counts"
    if "table" in entry:
        good = isinstance(entry["table"], str) and _are_rows(entry.get("rows"))
        return "" if good else "holds no table of numbers by class"
    wrong = [key for key, value in entry.items() if not _is_number(value)]
    return f"holds {wrong[0]!r}, which is not a number" if wrong else ""


def _are_rows(rows: object) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and all(isinstance(v, str) if k == "class" else _is_number(v) for k, v in row.items())
        for row in rows
    )


def _parse(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The lines of a history, and whether a kill cut off its last line, which is then left out."""
    entries: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    # After the last line end comes nothing, or the beginning of a line that was cut off.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line, parse_constant=lambda name: None)  # NaN, Infinity
        except (ValueError, RecursionError):  # RecursionError: brackets in brackets in brackets ...
            entry = None
            if number == len(lines) - 1:
                return entries, True
        if problem := _problem(entry):
            raise ValueError(
                f"{path} line {number} {problem}; "
                "remove that line, or start a new run with --overwrite"
            )
        entries.append(entry)
    return entries, lines[-1] != b""


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a history file in order, without a cut-off last one; [] if there is no file.

    Raises ValueError for a line that no run writes.
    """
    path = Path(path)
    return _parse(path)[0] if path.exists() else []


def series(history: Iterable[Mapping], key: str) -> tuple[list[int], list[float]]:
    """The steps and values of one scalar; None becomes NaN."""
    found = [(line["step"], line[key]) for line in history if key in line]
    steps = [step for step, _ in found]
    return steps, [math.nan if value is None else float(value) for _, value in found]


def tables(history: Iterable[Mapping], name: str) -> dict[int, Mapping[str, Any]]:
    """The lines with the table `name` ("classes" or "confusion"), by their step."""
    return {line["step"]: line for line in history if line.get("table") == name}


def best_validation(history: Sequence[Mapping]) -> tuple[int, float] | None:
    """Step and score of the best validation, the first of equals; None without a score."""
    scores = zip(*series(history, SCORE), strict=True)
    defined = [(step, score) for step, score in scores if not math.isnan(score)]
    return max(defined, key=lambda pair: pair[1], default=None)


def kept_steps(history: Sequence[Mapping]) -> list[int]:
    """The steps of the first, the best and the last validation, ascending, each once."""
    steps, best = series(history, SCORE)[0], best_validation(history)
    return sorted({*steps[:1], *steps[-1:], *([best[0]] if best else [])})


def replay(history: Iterable[Mapping], tracker: Tracker) -> None:
    """Tell `tracker` everything that the lines of a history hold, in their order."""
    for line in history:
        if "table" not in line:
            values = {key: math.nan if v is None else v for key, v in line.items() if key != "step"}
            tracker.scalars(line["step"], values)
        elif line["table"] == "confusion":
            counts = np.array(line["rows"], np.int64)
            tracker.confusion(line["step"], counts, line["class_names"])
        else:
            tracker.table(line["table"], line["step"], line["rows"])


class History(Tracker):
    """The tracker that every run has: it writes the history, and the samples beside it.

    Args:
        path: the file, `<run folder>/history.jsonl`; samples go to `<run folder>/samples`.
        resume_step: the step of the checkpoint from which the run continues. Later lines and
            samples, and a cut-off last line, are removed. None begins an empty history: an earlier
            one and its samples are deleted.
        validation_due: the run begins with the validation of that step, so what an earlier
            attempt has left is removed, too.

    If the history is deleted during the run, it is written anew, and nothing is lost.
    """

    def __init__(
        self, path: str | Path, *, resume_step: int | None, validation_due: bool = False
    ) -> None:
        self.path = Path(path)
        self._samples = self.path.parent / "samples"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._texts: dict[str, Mapping[str, object]] = {}
        kept: list[dict[str, Any]] = []
        if resume_step is None or not self.path.exists():
            self.path.write_bytes(b"")
        else:
            kept = self._cut(resume_step, validation_due=validation_due)
        delete_samples(self._samples, keep=kept_steps(kept))
        past = [line["wall time"] or 0 for line in kept if "wall time" in line]
        # The wall time counts on where the run stopped: the pause between does not count.
        self._begin = time.monotonic() - max(past, default=0)
        self._lines = LineFile(self.path)

    def _cut(self, resume_step: int, *, validation_due: bool) -> list[dict[str, Any]]:
        """Remove what is past the checkpoint; returns the lines that stay."""
        entries, is_cut_off = _parse(self.path)
        kept = [
            entry
            for entry in entries
            if entry["step"] < resume_step
            or (entry["step"] == resume_step and ("loss" in entry or not validation_due))
        ]
        if is_cut_off or len(kept) < len(entries):
            write_bytes(self.path, "".join(self._line(entry) for entry in kept).encode())
        return kept

    @staticmethod
    def _line(entry: Mapping[str, object]) -> str:
        return json.dumps(plain(entry), allow_nan=False, ensure_ascii=False) + "\n"

    def _append(self, entry: Mapping[str, object]) -> None:
        if self._lines.append(self._line(entry)):
            say(f"{self.path} was deleted during the run; it was written anew", error=True)
            for name, rows in self._texts.items():
                self.text(name, rows)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line with the values of a step; no value may be named as below."""
        if reserved := {"step", "table", "wall time"} & values.keys():
            raise ValueError(f"a value of the history is named {sorted(reserved)}; rename it")
        seconds = round(time.monotonic() - self._begin, 2)
        self._append({"step": int(step), "wall time": seconds, **values})

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Append one line with the rows of a table."""
        self._append({"step": int(step), "table": name, "rows": list(rows)})

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Save an image, (H, W, 3) uint8, as `<name>.jpg` beside the history."""
        save_image(self.path.with_name(f"{name}.jpg"), image)

    def samples(
        self,
        step: int,
        samples: Sequence[ValidatedSample],
        class_names: Sequence[str],
        palette: np.ndarray,
    ) -> None:
        """Save the samples of a validation; only those of the first, best and last one stay."""
        save_samples(self._samples, step, samples, class_names, palette)
        delete_samples(self._samples, keep=[*kept_steps(read(self.path)), step])

    def confusion(self, step: int, counts: np.ndarray, class_names: Sequence[str]) -> None:
        """Append one line with a validation's counts, (C, C); row: ground truth."""
        self._append(
            {
                "step": int(step),
                "table": "confusion",
                "class_names": list(class_names),
                "rows": counts.tolist(),
            }
        )

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        """Write named values, such as the options, to `<name>.json` beside the history."""
        self._texts[name] = rows
        text = json.dumps(plain(rows), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        # Python has surrogates in file names that are not valid text; UTF-8 can't encode them.
        data = text.encode("utf-8", "backslashreplace")
        write_bytes(self.path.with_name(f"{name}.json"), data)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._lines.close()
