"""Colors for own classes: told apart by normal and deuteranope eyes."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.palette import distinct_colors, lab


def test_lab_of_known_colors() -> None:
    # Bruce Lindbloom's calculator, sRGB with D65.
    found = lab(np.array([[255, 0, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]))
    expected = [[53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    assert found == pytest.approx(np.array(expected), abs=0.05)


def test_red_and_green_are_alike_to_a_deuteranope_only() -> None:
    colors = np.array([[178, 75, 60], [120, 110, 60]])
    normal, deuteranope = (lab(colors, deuteranope=kind) for kind in (False, True))
    assert np.linalg.norm(normal[0] - normal[1]) > 2 * np.linalg.norm(
        deuteranope[0] - deuteranope[1]
    )


def test_twenty_colors_white_and_black_differ_by_18() -> None:
    colors = np.array([*distinct_colors()[:20], (0, 0, 0), (255, 255, 255)])
    for deuteranope in (False, True):
        seen = lab(colors, deuteranope=deuteranope)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert apart[~np.eye(len(colors), dtype=bool)].min() >= 18


def test_all_classes_have_their_own_color_and_more_classes_change_none() -> None:
    colors = distinct_colors()
    assert len(set(colors)) == 255
    assert distinct_colors(5) == colors[:5]
    assert all(0 <= channel <= 255 for color in colors for channel in color)
