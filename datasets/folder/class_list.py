"""Class lists: `classes.txt` or `classes.csv` in the folder of a data set.

In label files a class has the number of its row, from 0, unless the list states values. A row named
`ignored` is not a class: its pixels do not count in loss and scores.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.facts import ClassFacts, Color, make_label_table, make_palette
from datasets.voc import voc_cmap
from utils.utils import IGNORE_INDEX

# Colors for classes without any. Each of the first 20 is as far as possible from those before it,
# from white and from black, for normal and for deuteranope eyes: 22 or more in CIELAB.
FIRST_COLORS = bytes.fromhex(
    "0000ff ffff00 6969c3 964b00 c32d78 ffd287 00004b 002db4 2de1ff 003c00"
    "f0870f 2d3c5a d27869 b42dff f096c3 e10fb4 f0d2b4 5a2d3c f0ff69 3c4bff"
)
OWN_COLORS = [*np.frombuffer(FIRST_COLORS, np.uint8).reshape(20, 3), *voc_cmap()[1:236]]
FILE_NAMES = ("classes.txt", "classes.csv")
IGNORED = "ignored"  # the name of rows that are not classes
MAX_CLASSES = 255  # 255 is the train id of ignored pixels
COLUMNS = ("name", "r", "g", "b", "color", "value")
HOW_TO_WRITE = (
    "write a classes.txt with the name of value 0 in its first line, of value 1 in its second, and "
    "so on (or a classes.csv with the header name,color,value and lines like road,#804080,7)"
)


class Row(NamedTuple):
    """One row of a class list."""

    where: str  # "line 3", for messages
    name: str
    color: Color | None
    values: tuple[int, ...] | None


@dataclass(frozen=True)
class ClassList:
    """A checked class list; `facts.colors` is None if it has no colors."""

    path: Path
    facts: ClassFacts
    has_values: bool  # whether the list states them


def find_class_list(root: Path) -> Path | None:
    """The class list of the data set in `root`; ValueError for two of them."""
    found = [root / name for name in FILE_NAMES if (root / name).is_file()]
    if not found and (root / "classes.json").is_file():
        raise ValueError(f"{root / 'classes.json'} is not read; {HOW_TO_WRITE}")
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ValueError(f"{root} holds {names}; keep one of them")
    return found[0] if found else None


def read_class_list(path: Path) -> ClassList:
    """Read and check a class list by its suffix; ValueError names the file and the line."""
    try:
        parse = _parse_txt if path.suffix == ".txt" else _parse_csv
        return _checked(path, parse(_read_text(path)))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        raise ValueError("holds zero bytes; save the file as UTF-8")
    if not text.strip():
        raise ValueError(f"is empty; {HOW_TO_WRITE}")
    return re.sub(r"\r\n?", "\n", text)


def _parse_txt(text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.rstrip().split("\n"), start=1):
        name = line.strip()
        if not name:
            raise ValueError(
                f"line {number} is empty; each line must name the class of a value, from 0 on "
                f"(`{IGNORED}` for a value that is not a class)"
            )
        if re.search(r"[,;\t]\s*#?\d|^\d+\s*[:,;\t=]", name):
            raise ValueError(
                f"line {number}, {name!r}, holds more than a name; write colors and values in a "
                "classes.csv with the header name,color,value"
            )
        rows.append(Row(f"line {number}", name, None, None))
    return rows


def _parse_csv(text: str) -> list[Row]:
    header = text.lstrip().split("\n", 1)[0]
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    reader = csv.reader(text.split("\n"), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[Row] = []
    columns: list[str] | None = None
    try:
        for fields in reader:
            cells = [field.strip() for field in fields]
            if not any(cells):
                continue
            where = f"line {reader.line_num}"
            if columns is None:
                columns = _columns(cells, where)
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{where} has {len(cells)} fields, the header {len(columns)} "
                    "(put a field that holds the separator in quotes)"
                )
            rows.append(_csv_row(dict(zip(columns, cells, strict=True)), where))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV: {error}") from error
    return rows


def _columns(cells: list[str], where: str) -> list[str]:
    columns = [cell.lower() for cell in cells]
    rgb = {"r", "g", "b"} & set(columns)
    if (
        not set(columns) <= set(COLUMNS)
        or "name" not in columns
        or len(set(columns)) < len(columns)
        or len(rgb) not in (0, 3)
        or (rgb and "color" in columns)
    ):
        raise ValueError(
            f"{where} is {', '.join(cells)!r}; the header must be name, perhaps with color or "
            "r,g,b, and perhaps with value"
        )
    return columns


def _csv_row(cells: Mapping[str, str], where: str) -> Row:
    color = None
    if cells.get("color"):
        color = _hex_color(cells["color"], where)
    elif any(cells.get(channel) for channel in "rgb"):
        color = _rgb_color([cells[channel] for channel in "rgb"], where)
    values = _values(cells["value"], where) if cells.get("value") else None
    return Row(where, cells["name"], color, values)


def _hex_color(text: str, where: str) -> Color:
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        raise ValueError(f"{where}: a color is written #rrggbb, got {text!r}")
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _rgb_color(parts: Sequence[str], where: str) -> Color:
    if not all(re.fullmatch(r"\d{1,3}", part) and int(part) <= 255 for part in parts):
        raise ValueError(f"{where}: r, g and b are numbers 0..255, got {', '.join(parts)}")
    red, green, blue = map(int, parts)
    return red, green, blue


def _values(text: str, where: str) -> tuple[int, ...]:
    """The label values of 7 or 7;9;20-25."""
    values: list[int] = []
    for part in text.split(";"):
        limits = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", part)
        if limits is None:
            raise ValueError(f"{where}: a value is written 7 or 7;9;20-25, got {text!r}")
        first, last = int(limits[1]), int(limits[2] or limits[1])
        if not first <= last <= 255:
            raise ValueError(
                f"{where}: values must be 0..255 and ranges in ascending order, got {text!r}"
            )
        values += range(first, last + 1)
    return tuple(values)


def _checked(path: Path, rows: list[Row]) -> ClassList:
    """The facts in the rows; ValueError for the first contradiction."""
    rows = [row._replace(name=_plain_name(row)) for row in rows]
    classes = [row for row in rows if row.name != IGNORED]
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(
            f"names {len(classes)} classes, allowed are 2..{MAX_CLASSES}; the background is a "
            f"class, rows named `{IGNORED}` are not"
        )
    has_values = _all_or_none(classes, [row.values for row in classes], "value")
    has_colors = _all_or_none(classes, [row.color for row in classes], "color")
    if not has_values:
        rows = [row._replace(values=row.values or (i,)) for i, row in enumerate(rows)]
    _unique(classes, lambda row: [row.name], "the name {!r}")
    large = [row for row in rows if row.values and max(row.values) > 255]
    if large:
        raise ValueError(f"{large[0].where} is row number 256 or more; values are 0..255")
    _unique(rows, lambda row: row.values or (), "the value {}")
    _unique(rows, lambda row: [row.color] if row.color else [], "the color {}")
    train_ids = {row.name: train_id for train_id, row in enumerate(classes)} | {
        IGNORED: IGNORE_INDEX
    }
    colors = {row.color: train_ids[row.name] for row in rows if row.color}
    facts = ClassFacts(
        class_names=tuple(row.name for row in classes),
        palette=_palette(colors) if has_colors else make_palette(OWN_COLORS),
        label_table=make_label_table({v: train_ids[r.name] for r in rows for v in r.values or ()}),
        colors=colors if has_colors else None,
    )
    return ClassList(path, facts, has_values)


def _plain_name(row: Row) -> str:
    name = " ".join(row.name.split())
    if not name:
        raise ValueError(f"{row.where} has no name")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise ValueError(f"{row.where}: the name {name!a} holds control characters")
    return name


def _all_or_none(classes: list[Row], cells: Sequence[object], what: str) -> bool:
    without = [row for row, cell in zip(classes, cells, strict=True) if cell is None]
    if without and len(without) < len(classes):
        raise ValueError(
            f"{without[0].where}, class {without[0].name!r}, has no {what}, but others have one; "
            "give one to all classes or to none"
        )
    return not without


def _unique(rows: list[Row], cells: Callable[[Row], Iterable[Hashable]], what: str) -> None:
    seen: dict[Hashable, Row] = {}
    for row in rows:
        for cell in cells(row):
            if cell in seen:
                raise ValueError(
                    f"{row.where}: {what.format(cell)} is also that of {seen[cell].where}"
                )
            seen[cell] = row


def _palette(colors: Mapping[Color, int]) -> np.ndarray:
    of_train_id = {train_id: color for color, train_id in reversed(list(colors.items()))}
    return make_palette([of_train_id.get(train_id, (0, 0, 0)) for train_id in range(256)])
