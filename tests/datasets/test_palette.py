"""Colors for own classes: told apart by normal and deuteranope eyes."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.folder.class_list import OWN_COLORS

# Linear RGB as a deuteranope sees it (Machado, Oliveira and Fernandes, 2009, severity 1).
DEUTERANOPE = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
XYZ_OF_RGB = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)  # sRGB, D65


def lab(colors: np.ndarray, *, deuteranope: bool = False) -> np.ndarray:
    """CIELAB coordinates (N, 3) of sRGB colors (N, 3), 0..255, as seen by one kind of eyes."""
    srgb = np.asarray(colors) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if deuteranope:
        linear = np.clip(linear @ DEUTERANOPE.T, 0, 1)
    xyz = linear @ XYZ_OF_RGB.T / XYZ_OF_RGB.sum(axis=1)  # relative to white
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


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
    colors = np.array([*OWN_COLORS[:20], (0, 0, 0), (255, 255, 255)])
    for deuteranope in (False, True):
        seen = lab(colors, deuteranope=deuteranope)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert apart[~np.eye(len(colors), dtype=bool)].min() >= 18


def test_all_classes_have_their_own_color() -> None:
    assert len({tuple(color) for color in OWN_COLORS}) == 255
