"""What is known about the classes of a data set: one record, made and used everywhere alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from utils.utils import IGNORE_INDEX

NO_CLASS = -1  # in a label table: label files must not hold this value

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassFacts:
    """The classes of a data set: their names, their colors, and how label files state them."""

    class_names: tuple[str, ...]
    palette: np.ndarray = field(repr=False)  # (256, 3) uint8, by train id
    label_table: np.ndarray = field(repr=False)  # (256,) int16, see make_label_table
    colors: Mapping[Color, int] | None = None  # train ids, where label files hold RGB colors

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Label file values of any shape -> train ids, uint8, in a new array.

        A value that is not a class is a ValueError.
        """
        target, table = np.asarray(target), self.label_table
        values = np.unique(target).tolist()
        wrong = [v for v in values if not (-1 <= v <= 255 and table[v] != NO_CLASS)]
        if wrong:
            raise ValueError(f"label {describe_wrong(wrong, table)}")
        return table[target].astype(np.uint8)  # -1 indexes the last entry, 255: ignored

    def decode(self, target: np.ndarray | Tensor) -> np.ndarray:
        """Train ids of any shape -> colors (..., 3) uint8, in a new array."""
        ids = target.cpu().numpy() if isinstance(target, Tensor) else np.asarray(target)
        if ids.size and (ids.min() < 0 or ids.max() > 255):
            raise ValueError(f"train ids must be 0..255, got {ids.min()}..{ids.max()}")
        return self.palette[ids.astype(np.uint8)]


def check_choice(what: str, value: object, allowed: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")


def make_palette(colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Palette (256, 3) uint8 that begins with the given colors and is black after them."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    palette.flags.writeable = False
    return palette


def make_label_table(train_ids: Mapping[int, int]) -> np.ndarray:
    """Table (256,) int16 from label value to train id; 255 is ignored, the rest is NO_CLASS."""
    table = np.full(256, NO_CLASS, dtype=np.int16)
    table[IGNORE_INDEX] = IGNORE_INDEX
    for value, train_id in train_ids.items():
        table[value] = train_id
    table.flags.writeable = False
    return table


def describe_wrong(wrong: Sequence[int], table: np.ndarray) -> str:
    """Which label values are wrong, and which ones `table` (256,) allows."""
    shown = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
    allowed = _ranges(np.flatnonzero((table != NO_CLASS) & (table != IGNORE_INDEX)).tolist())
    if ignored := _ranges(np.flatnonzero(table == IGNORE_INDEX).tolist()):
        allowed += f" and {ignored} (ignored)"
    what = f"value {shown} is not a class" if len(wrong) == 1 else f"values {shown} are not classes"
    return f"{what}; allowed: {allowed}"


def _ranges(values: Sequence[int]) -> str:
    """Sorted integers in short: 0..3, 7, 9..11."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    return ", ".join("..".join(map(str, run)) for run in runs)
