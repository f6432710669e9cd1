"""Random crops: of the picture as it is, and together with a random scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.utils import IGNORE_INDEX

from . import base
from .base import MEAN_COLOR, Color, JointTransform, Picture, Rng, Size

MAX_REDRAWS = 10


def check_scale(scale_range: Sequence[float]) -> tuple[float, float]:
    """Return the range (low, high), or raise a ValueError."""
    low, high = scale_range
    if not 0 < low <= high or not math.isfinite(high):
        raise ValueError(f"scale must be a range with 0 < low <= high, got ({low}, {high})")
    return low, high


def _is_mixed(label: np.ndarray, cat_max_ratio: float) -> bool:
    """Whether there are labeled pixels, and no class has more than this share of them."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256])[:IGNORE_INDEX]
    return bool(0 < counts.max() <= cat_max_ratio * counts.sum())


class ExtRandomCrop(JointTransform):
    """Crop at a random position; a picture smaller than the crop needs `pad_if_needed`.

    `padding` is added before the crop: pixels on all sides, or (left and right, top and bottom), or
    (left, top, right, bottom).
    """

    def __init__(
        self,
        size: Size,
        padding: float | Sequence[int] = 0,
        pad_if_needed: bool = False,
        *,
        image_fill: Color = MEAN_COLOR,
    ) -> None:
        self.size = base.check_size(size)
        sides = tuple(padding) if isinstance(padding, Sequence) else (int(padding),)
        if len(sides) not in (1, 2, 4) or min(sides) < 0:
            raise ValueError(f"padding must be 1, 2 or 4 numbers >= 0, got {padding}")
        self.padding = sides * (4 // len(sides))
        self.pad_if_needed = pad_if_needed
        self.image_fill = image_fill

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        left, top, right, bottom = self.padding
        height, width = image.shape[0] + top + bottom, image.shape[1] + left + right
        if not self.pad_if_needed and (height < self.size[0] or width < self.size[1]):
            raise ValueError(
                f"crop {self.size[1]}x{self.size[0]} is larger than the {width}x{height} image; "
                "use a smaller size or pad_if_needed=True"
            )
        fill, size = self.image_fill, (height, width)
        padded = base.cut(image, label, left=-left, top=-top, size=size, image_fill=fill)
        top = _random_offset(height, self.size[0], rng)
        left = _random_offset(width, self.size[1], rng)
        return base.cut(*padded, left=left, top=top, size=self.size, image_fill=fill)


def _random_offset(available: int, wanted: int, rng: Rng) -> int:
    """The random start of a crop; 0 or negative where the picture is smaller than the crop."""
    spare = available - wanted
    offset = int(rng.integers(0, abs(spare) + 1))
    return offset if spare >= 0 else -offset


class _Span(NamedTuple):
    """Along one side: source pixels from start to stop become `length` pixels at `offset`."""

    start: int
    stop: int
    length: int
    offset: int


def _draw_span(available: int, wanted: int, factor: float, rng: Rng) -> _Span:
    length = base.scaled_length(available, factor)
    if length <= wanted:
        return _Span(0, available, length, int(rng.integers(0, wanted - length + 1)))
    source = min(max(1, round(wanted / factor)), available)
    start = int(rng.integers(0, available - source + 1))
    return _Span(start, start + source, wanted, 0)


class ExtRandomScaleCrop(JointTransform):
    """Scale by a random factor and crop at a random position, with padding where it is too small.

    The distribution is that of ExtRandomScale and ExtRandomCrop, except for fractions of a pixel:
    the crop is chosen in the source, in whole pixels, and nothing outside it is read or resized.
    While one class fills more than `cat_max_ratio` of the labeled pixels, or no pixel is labeled,
    another position is drawn at the same scale, at most 10 times.
    """

    def __init__(
        self,
        size: Size,
        scale_range: tuple[float, float] = (0.5, 2.0),
        *,
        image_fill: Color = MEAN_COLOR,
        cat_max_ratio: float = 1.0,
    ) -> None:
        self.size = base.check_size(size)
        if not 0 < cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio must be above 0 and at most 1, got {cat_max_ratio}")
        self.scale_range = check_scale(scale_range)
        self.image_fill = image_fill
        self.cat_max_ratio = cat_max_ratio

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        factor = rng.uniform(*self.scale_range)
        for _ in range(1 + MAX_REDRAWS):
            rows = _draw_span(image.shape[0], self.size[0], factor, rng)
            columns = _draw_span(image.shape[1], self.size[1], factor, rng)
            source = np.s_[rows.start : rows.stop, columns.start : columns.stop]
            ids = base.resize_label(label[source], (rows.length, columns.length))
            if self.cat_max_ratio == 1 or _is_mixed(ids, self.cat_max_ratio):
                break
        return base.cut(
            base.resize_image(image[source], (rows.length, columns.length)),
            ids,
            left=-columns.offset,
            top=-rows.offset,
            size=self.size,
            image_fill=self.image_fill,
        )
