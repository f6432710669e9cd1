"""Tables as HTML, for the dashboard."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np


def html_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as an HTML table, everything escaped; columns are all keys, numbers stand to the right.

    A missing value, None or NaN is shown as a dash.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {column for column in columns if any(_is_number(row.get(column)) for row in rows)}
    head = "".join(
        _html_cell("th", html.escape(str(column)), right=column in numeric) for column in columns
    )
    body = "".join(
        "<tr>"
        + "".join(_html_cell("td", _shown(row.get(c)), right=c in numeric) for c in columns)
        + "</tr>"
        for row in rows
    )
    return f"<table style='width:100%'><tr>{head}</tr>{body}</table>"


def _html_cell(tag: str, content: str, *, right: bool) -> str:
    align = "right" if right else "left"
    return f"<{tag} style='padding:2px 8px;text-align:{align}'>{content}</{tag}>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if value is None or (_is_number(value) and math.isnan(value)):
        return "&ndash;"
    if not _is_number(value):
        return html.escape(str(value))
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.4g}"
