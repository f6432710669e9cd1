"""Random windows of a picture: plain, and together with a random scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.utils import IGNORE_INDEX

from .base import (
    MEAN_COLOR,
    Color,
    JointTransform,
    Picture,
    Rng,
    Size,
    check_size,
    cut,
    cut_plane,
    pad_plane,
    resize_image,
    resize_label,
    scaled_length,
)

MAX_REDRAWS = 10


def check_scale(scale_range: Sequence[float]) -> tuple[float, float]:
    """The range, or a ValueError where it is none."""
    low, high = scale_range
    if not 0 < low <= high or not math.isfinite(high):
        raise ValueError(f"scale must be 0 < low <= high, got ({low}, {high})")
    return low, high


def _check_ratio(cat_max_ratio: float) -> float:
    if not 0 < cat_max_ratio <= 1:
        raise ValueError(f"cat_max_ratio must be above 0 and at most 1, got {cat_max_ratio}")
    return cat_max_ratio


def _tries(cat_max_ratio: float) -> range:
    return range(1 if cat_max_ratio == 1 else 1 + MAX_REDRAWS)


def _is_mixed(label: np.ndarray, cat_max_ratio: float) -> bool:
    """Whether no class has more than this share of the labelled pixels, and there are some."""
    if cat_max_ratio == 1:
        return True
    counts = cv2.calcHist([label], [0], None, [256], [0, 256])[:IGNORE_INDEX]
    return bool(0 < counts.max() <= cat_max_ratio * counts.sum())


class ExtRandomCrop(JointTransform):
    """Cut a window at a uniform position; a picture smaller than it needs `pad_if_needed`.

    `padding` is added on all sides before: pixels, or (left and right, top and bottom), or (left,
    top, right, bottom). While one class fills more than `cat_max_ratio` of the labelled pixels, or
    none is labelled, another position is drawn, at most 10 times.
    """

    def __init__(
        self,
        size: Size,
        padding: int | Sequence[int] = 0,
        pad_if_needed: bool = False,
        *,
        image_fill: Color = MEAN_COLOR,
        cat_max_ratio: float = 1.0,
    ) -> None:
        self.size = check_size(size)
        sides = (padding,) if isinstance(padding, int) else tuple(padding)
        if len(sides) not in (1, 2, 4) or min(sides) < 0:
            raise ValueError(f"padding must be 1, 2 or 4 numbers of pixels, got {padding}")
        self.padding = sides * (4 // len(sides))
        self.pad_if_needed = pad_if_needed
        self.image_fill = image_fill
        self.cat_max_ratio = _check_ratio(cat_max_ratio)

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        left, top, right, bottom = self.padding
        borders = {"left": left, "top": top, "right": right, "bottom": bottom}
        image = pad_plane(image, self.image_fill, **borders)
        label = pad_plane(label, IGNORE_INDEX, **borders)
        if not self.pad_if_needed and (
            image.shape[0] < self.size[0] or image.shape[1] < self.size[1]
        ):
            raise ValueError(
                f"crop {self.size[1]}x{self.size[0]} is larger than the "
                f"{image.shape[1]}x{image.shape[0]} image; use a smaller size or pad_if_needed=True"
            )
        for _ in _tries(self.cat_max_ratio):
            top = _random_offset(image.shape[0], self.size[0], rng)
            left = _random_offset(image.shape[1], self.size[1], rng)
            ids = cut_plane(label, IGNORE_INDEX, left=left, top=top, size=self.size)
            if _is_mixed(ids, self.cat_max_ratio):
                break
        return cut(image, label, left=left, top=top, size=self.size, image_fill=self.image_fill)


def _random_offset(available: int, wanted: int, rng: Rng) -> int:
    """Uniform start of a window; negative, also uniform, where the picture is smaller than it."""
    spare = available - wanted
    offset = int(rng.integers(0, abs(spare) + 1))
    return offset if spare >= 0 else -offset


class _Span(NamedTuple):
    """Along one side: which source pixels, to how many they are resized, where those then lie."""

    start: int
    stop: int
    length: int
    offset: int


def _draw_span(available: int, wanted: int, factor: float, rng: Rng) -> _Span:
    length = scaled_length(available, factor)
    if length <= wanted:
        return _Span(0, available, length, int(rng.integers(0, wanted - length + 1)))
    source = min(max(1, round(wanted / factor)), available)
    start = int(rng.integers(0, available - source + 1))
    return _Span(start, start + source, wanted, 0)


class ExtRandomScaleCrop(JointTransform):
    """Scale by a uniform factor and crop at a uniform position, padding where it is too small.

    Same distribution as ExtRandomScale and ExtRandomCrop but for fractions of a pixel: the window
    is chosen in the source, with whole pixels as bounds, and nothing outside it is read or resized.
    `cat_max_ratio` as with ExtRandomCrop; another position is drawn, at the same scale, and the
    image is left alone until a label was found.
    """

    def __init__(
        self,
        size: Size,
        scale_range: tuple[float, float] = (0.5, 2.0),
        *,
        image_fill: Color = MEAN_COLOR,
        cat_max_ratio: float = 1.0,
    ) -> None:
        self.size = check_size(size)
        self.scale_range = check_scale(scale_range)
        self.image_fill = image_fill
        self.cat_max_ratio = _check_ratio(cat_max_ratio)

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        factor = rng.uniform(*self.scale_range)
        for rows, columns in self._windows(image.shape[:2], factor, rng):
            source = np.s_[rows.start : rows.stop, columns.start : columns.stop]
            ids = resize_label(label[source], (rows.length, columns.length))
            if _is_mixed(ids, self.cat_max_ratio):
                break
        pixels = resize_image(image[source], (rows.length, columns.length))
        borders = {
            "left": columns.offset,
            "top": rows.offset,
            "right": self.size[1] - columns.length - columns.offset,
            "bottom": self.size[0] - rows.length - rows.offset,
        }
        return pad_plane(pixels, self.image_fill, **borders), pad_plane(
            ids, IGNORE_INDEX, **borders
        )

    def _windows(
        self, size: tuple[int, int], factor: float, rng: Rng
    ) -> Iterator[tuple[_Span, _Span]]:
        for _ in _tries(self.cat_max_ratio):
            rows = _draw_span(size[0], self.size[0], factor, rng)
            yield rows, _draw_span(size[1], self.size[1], factor, rng)
