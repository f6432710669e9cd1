from __future__ import annotations

import numpy as np

from utils.visualizer.tables import html_table


def test_html_table_escapes_and_aligns() -> None:
    rows = [
        {"<i>": "a&b", "IoU": 0.123456, "pixels": 1234567},
        {"<i>": None, "IoU": float("nan"), "pixels": np.int64(5), "extra": True},
    ]
    page = html_table(rows)
    assert page.count("<tr>") == 3 and page.count("<td") == 8
    assert "&lt;i&gt;" in page and "<i>" not in page and "a&amp;b" in page
    assert "right'>0.1235<" in page and "right'>1,234,567<" in page and "right'>5<" in page
    assert page.count("&ndash;") == 3
    assert "left'>True<" in page
