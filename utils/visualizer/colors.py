"""The colors of every view: plots, pages, pictures and the dashboard.

They are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which color-blind people tell
apart, too.
"""

from __future__ import annotations

import numpy as np
from PIL import ImageColor

TRAIN = "#0072B2"
VALIDATION = "#D55E00"
BEST = "#009E73"
REST = "#767676"
WRONG = VALIDATION  # wrong pixels in an error map
RUNS = (TRAIN, VALIDATION, BEST, "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # beside each other
# A heat map from no pixel to all pixels of a row.
HEAT = ("#FFFFFF", "#D6E8F4", "#8FC1E0", "#3C8FC4", TRAIN, "#003E63")


def rgb(color: str) -> tuple[int, ...]:
    """Red, green and blue, 0..255, of a color "#RRGGBB"."""
    return ImageColor.getrgb(color)


def hex_color(color: np.ndarray) -> str:
    """Red, green and blue, uint8, as "#rrggbb"."""
    return "#" + bytes(color).hex()
