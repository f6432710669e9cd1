"""Tables as HTML, for the dashboard."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np

DASH = "&ndash;"


def html_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as an HTML table with a column for each key; everything is escaped.

    Columns with numbers are aligned right. A missing value, None or NaN is shown as a dash.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {column for column in columns if any(_is_number(row.get(column)) for row in rows)}
    lines = [[_cell("th", html.escape(str(c)), right=c in numeric) for c in columns]]
    for row in rows:
        lines.append([_cell("td", _shown(row.get(c)), right=c in numeric) for c in columns])
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return f"<table style='width:100%'>{body}</table>"


def _cell(tag: str, content: str, *, right: bool) -> str:
    align = "right" if right else "left"
    return f"<{tag} style='padding:2px 8px;text-align:{align}'>{content}</{tag}>"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if not _is_number(value):
        return DASH if value is None else html.escape(str(value))
    if math.isnan(value):
        return DASH
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.4g}"
