"""Whether the labels in a folder mean values or colors, judged by the first few files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.facts import NO_CLASS, Color
from datasets.files import DataError, open_image, white_value
from datasets.folder.class_list import ClassList
from utils.runtime.files import open_regular
from utils.utils import IGNORE_INDEX


def hold_colors(labels: Sequence[Path], class_list: ClassList) -> bool:
    """Whether the labels mean their colors, not their values.

    RGB files do. Palette files do if their colors are those of classes, but not of the classes
    with these indices: some program chose the indices. Gray files do if all their grays are the
    colors of classes and, read as values, some would not be classes.
    """
    modes = {path: _mode(path) for path in labels}
    rgb = [path for path, mode in modes.items() if mode.startswith("RGB")]
    if rgb and class_list.facts.colors is None:
        raise DataError(
            f"label {rgb[0]} holds colors, but {class_list.path} has none; give each class its "
            f"color in a classes.csv with the header name,color{describe_content(rgb)}"
        )
    colors, table = class_list.facts.colors, class_list.facts.label_table
    if rgb or class_list.has_values or colors is None:
        return bool(rgb)
    if any(_has_own_indices(path, colors, table) for path in modes if modes[path] == "P"):
        return True
    gray, bits = (_all_values(p for p in modes if modes[p] == mode) for mode in ("L", "1"))
    return _is_gray_of_classes(gray, bits, colors, table)


def _mode(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return Image.open(file).mode
    except Exception:  # a damaged file is reported when it is loaded
        return ""


def _has_own_indices(path: Path, colors: Mapping[Color, int], table: np.ndarray) -> bool:
    try:
        label = open_image(path)
    except DataError:
        return False
    palette = label.getpalette("RGB") or []
    indices = np.unique(np.asarray(label)).tolist()
    found = [palette[3 * i : 3 * i + 3] for i in indices]
    meant = [colors.get((rgb[0], rgb[1], rgb[2])) if len(rgb) == 3 else None for rgb in found]
    return None not in meant and meant != table[indices].tolist()


def _all_values(labels: Iterable[Path]) -> list[int]:
    """All values in the files that can be read; white in a one-bit file is 255."""
    values: set[int] = set()
    for path in labels:
        with suppress(DataError):
            values.update(np.unique(np.asarray(open_image(path).convert("L"))).tolist())
    return sorted(values)


def _is_gray_of_classes(
    gray: Sequence[int], bits: Sequence[int], colors: Mapping[Color, int], table: np.ndarray
) -> bool:
    """Whether the values of the gray and of the one-bit files (0 and 255) mean colors."""
    meant = {value: colors.get((value, value, value)) for value in {*gray, *bits}}
    if None in meant.values():
        return False
    # Black alone could be both; then it is the value 0.
    if any(table[v] == NO_CLASS or table[v] == IGNORE_INDEX != meant[v] for v in gray):
        return True
    return any(table[v and white_value(table)] != meant[v] for v in bits)


def describe_content(labels: Sequence[Path]) -> str:
    """What the first labels hold, to help with writing a class list."""
    values: set[object] = set()
    for path in labels[:5]:
        try:
            label = open_image(path)
        except DataError:
            continue
        if label.mode.startswith("RGB"):
            found = label.convert("RGB").getcolors(1 << 12) or []
            values.update("#" + bytes(rgb).hex() for _, rgb in found if isinstance(rgb, tuple))
        else:
            values.update(np.unique(np.asarray(label)).astype(int).tolist())
    shown = ", ".join(map(str, sorted(values, key=lambda v: (isinstance(v, str), v))[:20]))
    more = ", ..." if len(values) > 20 else ""
    return f"; the first labels hold {shown}{more}" if values else ""
