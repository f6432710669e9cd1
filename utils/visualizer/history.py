"""The record of a run: the file `history.jsonl`, and the newest sample pictures beside it.

It is always written; curves and dashboard are made from it. Each line is one JSON object::

    {"step": 10, "loss": 2.31, "lr": 0.0099, "images/s": 41.2, "data wait": 0.02}
    {"step": 100, "Mean IoU": 0.41, "Overall Acc": 0.83}
    {"step": 100, "table": "classes", "rows": [{"class": "road", "IoU": 0.93}, ...]}

Values that are not finite are written as null, so that every line is valid JSON.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from utils.runtime.files import write_bytes

from .pictures import save_image

# The values of a line that are not scores of a validation.
NO_SCORES = ("step", "loss", "lr", "images/s", "data wait", "validation loss")
MAX_NAME_LENGTH = 150


def plain(value: object) -> object:
    """A value as JSON allows it: numpy and torch scalars become numbers, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _parse(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The lines of a history, and whether a kill cut off its last line, which is then left out."""
    entries: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    # After the last line end comes nothing, or the beginning of a line that was cut off.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry["step"], int):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            if number == len(lines) - 1:
                return entries, True
            raise ValueError(
                f'{path} line {number} is not a JSON object with a "step"; '
                "remove that line, or start a new run with --overwrite"
            ) from None
        entries.append(entry)
    return entries, lines[-1] != b""


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a history file in order, without a cut-off last one; [] if there is no file."""
    path = Path(path)
    return _parse(path)[0] if path.exists() else []


def series(history: Iterable[Mapping], key: str) -> tuple[list[int], list[float]]:
    """The steps and values of one scalar; None becomes NaN."""
    found = [(line["step"], line[key]) for line in history if key in line]
    steps = [step for step, _ in found]
    return steps, [math.nan if value is None else float(value) for _, value in found]


def validation_keys(history: Iterable[Mapping]) -> list[str]:
    """The names of the scores in validations, in the order of their first line."""
    names = (key for line in history if "table" not in line for key in line)
    return [key for key in dict.fromkeys(names) if key not in NO_SCORES]


class History:
    """The tracker that every run has: it writes the history and keeps sample pictures.

    Args:
        path: the file, `<run folder>/history.jsonl`; pictures go to `<run folder>/samples`.
        resume_step: the step of the checkpoint from which the run continues. Later lines, and a
            cut-off last one, are removed. None begins an empty history: an earlier one and its
            sample pictures are deleted.
    """

    def __init__(self, path: str | Path, *, resume_step: int | None) -> None:
        self.path = Path(path)
        self.samples = self.path.parent / "samples"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, str] = {}
        if resume_step is None:
            self.path.write_bytes(b"")
            for old in self.samples.glob("*.png"):
                if re.fullmatch(r"\d{6,}_.*\.png", old.name):
                    old.unlink()
        elif self.path.exists():
            self._cut(resume_step)
        self._file = open(self.path, "a", encoding="utf-8")  # open until close()

    def _cut(self, resume_step: int) -> None:
        entries, is_cut_off = _parse(self.path)
        kept = [entry for entry in entries if entry["step"] <= resume_step]
        if is_cut_off or len(kept) < len(entries):
            write_bytes(self.path, "".join(self._line(entry) for entry in kept).encode())

    @staticmethod
    def _line(entry: Mapping[str, object]) -> str:
        return json.dumps(plain(entry), allow_nan=False, ensure_ascii=False) + "\n"

    def _append(self, entry: Mapping[str, object]) -> None:
        before = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(self._line(entry))
            self._file.flush()
            os.fsync(
                self._file.fileno()
            )  # a checkpoint must not survive a crash that its lines don't
        except OSError as error:  # a full disk: leave no half line to which the next is added
            with suppress(OSError):
                self._file.close()
            os.truncate(self.path, before)
            self._file = open(self.path, "a", encoding="utf-8")
            raise OSError(f"a line of {self.path}: {error}") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line with the values of a step; no value may be named "step" or "table"."""
        if reserved := {"step", "table"} & values.keys():
            raise ValueError(f"a value of the history is named {sorted(reserved)}; rename it")
        self._append({"step": int(step), **values})

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Append one line with the rows of a table."""
        self._append({"step": int(step), "table": name, "rows": list(rows)})

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Save an image, (H, W, 3) uint8, as `samples/<step>_<name>.png`.

        It replaces the older picture of that name: pictures of every validation of a long run
        would fill the disk. Characters that do not suit a file name become "_".
        """
        stem = self._stem(name)
        target = self.samples / f"{step:06d}_{stem}.png"
        save_image(target, image)
        for old in self.samples.glob(f"*_{stem}.png"):
            if old != target and re.fullmatch(rf"\d{{6,}}_{re.escape(stem)}\.png", old.name):
                old.unlink()

    def _stem(self, name: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        # Two names must not share a file, and no file name may be longer than 255 bytes.
        if len(stem) > MAX_NAME_LENGTH or self._files.get(stem, name) != name:
            stem = f"{stem[:MAX_NAME_LENGTH]}_{zlib.crc32(name.encode()):08x}"
        self._files[stem] = name
        return stem

    def figure(self, name: str, step: int, path: Path) -> None:
        """Nothing to do: the figure is already a file in the run folder."""

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        """Write named values, such as the options, to `<name>.json` beside the history."""
        text = json.dumps(plain(rows), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        # Python has surrogates in file names that are not valid text; UTF-8 can't encode them.
        data = text.encode("utf-8", "backslashreplace")
        write_bytes(self.path.with_name(f"{self._stem(name)}.json"), data)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()
