"""What the terminal shows of a validation: a table of the classes, and a line that sums it up."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from utils.runtime.console import shortened

WIDTH = 80
MAX_NAME = 24
BOLD, DIM = "1", "2"


def styled(text: str, style: str) -> str:
    """The text in bold or dim, if it goes to a terminal and NO_COLOR does not forbid it."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[{style}m{text}\033[0m"


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An aligned table of the classes' scores, as in `StreamSegMetrics.class_rows`.

    Classes without ground truth share one line at the end; "-" is a score that is not defined.
    """
    table = [["class", "IoU", "Dice", "precision", "recall", "pixels"]]
    for row in rows:
        name, *scores, pixels = row.values()
        if pixels:
            cells = ["-" if math.isnan(score) else f"{score:.4f}" for score in scores]
            table.append([shortened(name, MAX_NAME), *cells, f"{pixels:,}"])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]))
    absent = [shortened(row["class"], MAX_NAME) for row in rows if not row["pixels"]]
    if absent:
        names = textwrap.shorten(", ".join(absent), WIDTH - 14, placeholder=" ...")
        lines.append(styled(f"{len(absent)} absent: {names}", DIM))
    return "\n".join(lines)


def summary(
    score: float,
    past: Sequence[float],
    *,
    accuracy: float,
    loss: float,
    images: int,
    seconds: float,
) -> str:
    """A line with the mean IoU, how it changed, and the rest; `past` are the scores before."""
    change = "" if not past else f"{score - past[-1]:+.3f}"
    best = max((value for value in past if not math.isnan(value)), default=-1.0)
    news = "best so far" if score > best else f"best {best:.3f}"
    shown = f"mIoU {score:.3f}" + (f" ({change}, {news})" if change else "")
    if change and score > best:
        shown = styled(shown, BOLD)
    took = f"{images:,} images in {seconds:.3g} s"
    return f"{shown} | pixel accuracy {accuracy:.3f} | loss {loss:.4f} | {took}"
