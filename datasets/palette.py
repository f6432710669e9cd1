"""Colors for classes without published ones, chosen so that everybody can tell them apart."""

from __future__ import annotations

from functools import cache

import numpy as np

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


def distances(colors: np.ndarray, color: np.ndarray) -> np.ndarray:
    """How different each of `colors` (N, 3) is from one (3,): (N,), for the eyes that see less."""
    both = np.concatenate([colors, color[None]])
    found = []
    for deuteranope in (False, True):
        seen = lab(both, deuteranope=deuteranope)
        found.append(np.linalg.norm(seen[:-1] - seen[-1], axis=1))
    return np.minimum(*found)


@cache
def distinct_colors(number: int = 255) -> tuple[tuple[int, int, int], ...]:
    """The first `number` of one sequence of colors, each as far as possible from those before it.

    White and black count as taken. The smallest distance between 20 colors is 22 in CIELAB.
    """
    levels = np.arange(0, 256, 15)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    nearest = np.minimum(*(distances(candidates, np.full(3, level)) for level in (0, 255)))
    chosen = []
    for _ in range(number):
        best = candidates[nearest.argmax()]
        chosen.append((int(best[0]), int(best[1]), int(best[2])))
        nearest = np.minimum(nearest, distances(candidates, best))
    return tuple(chosen)
