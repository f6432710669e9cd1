"""Random changes of color, modeled on ColorJitter of torchvision v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from .base import JointTransform, Picture, Rng

GRAY = np.array([0.2989, 0.587, 0.114])  # luma of R, G, B (ITU-R BT.601), as in torchvision
UNCHANGED = np.eye(3, 4)

Adjustment = Literal["brightness", "contrast", "saturation", "hue"]
Strength = float | tuple[float, float]


def adjust_colors(image: np.ndarray, adjustments: Sequence[tuple[Adjustment, float]]) -> np.ndarray:
    """Make the adjustments one after another on an RGB image (H, W, 3) uint8.

    Brightness, contrast and saturation blend the image, by a factor of 0 or more, with black, with
    its mean gray, and with each pixel's own gray. Hue turns by -0.5..0.5 of the color circle.
    """
    # The first three are affine in the color. A factor of at most 1 needs no clipping, so such a
    # change waits and is done together with the next one: fewer passes, the same pixels.
    waiting = UNCHANGED
    for kind, factor in adjustments:
        if kind == "hue":
            image, waiting = _turn_hue(_transform(image, waiting), factor), UNCHANGED
            continue
        other = _blended_with(kind, image, waiting)
        waiting = factor * waiting + (1 - factor) * other
        if factor > 1:
            image, waiting = _transform(image, waiting), UNCHANGED
    return _transform(image, waiting)


def _blended_with(kind: Adjustment, image: np.ndarray, waiting: np.ndarray) -> np.ndarray:
    """Affine map (3, 4) from the image's colors to those that the adjustment blends with."""
    other = np.zeros((3, 4))
    if kind == "contrast":
        mean = waiting @ np.append(cv2.mean(image)[:3], 1)
        other[:, 3] = GRAY @ mean
    elif kind == "saturation":
        other[:] = GRAY @ waiting
    return other


def _transform(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The image with its colors mapped by `affine` (3, 4), rounded and clipped."""
    return image if affine is UNCHANGED else cv2.transform(image, affine)


def _turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # all three are 0..255; hue is cyclic
    table = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    table[:, 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB_FULL)


def _range(name: str, strength: Strength, *, neutral: float) -> tuple[float, float] | None:
    """The lowest and the highest factor, or None where nothing changes."""
    if isinstance(strength, int | float):
        if strength < 0:
            raise ValueError(f"{name} must be a number >= 0 or (low, high), got {strength}")
        low, high = neutral - strength, neutral + strength
        low = max(low, 0.0) if neutral else low
    else:
        low, high = strength
    least, most = (0.0, float("inf")) if neutral else (-0.5, 0.5)
    if not least <= low <= high <= most:
        limits = "0 <= low <= high" if neutral else "-0.5 <= low <= high <= 0.5"
        raise ValueError(f"the range of {name} must have {limits}, got {strength}")
    return None if low == high == neutral else (low, high)


class ExtColorJitter(JointTransform):
    """Change brightness, contrast, saturation and hue by random factors, in random order.

    A number x stands for factors from 1-x (at least 0) to 1+x, and for hue from -x to x. A pair is
    the range itself. The label stays as it is.
    """

    def __init__(
        self,
        brightness: Strength = 0.0,
        contrast: Strength = 0.0,
        saturation: Strength = 0.0,
        hue: Strength = 0.0,
    ) -> None:
        self.ranges: dict[Adjustment, tuple[float, float] | None] = {
            "brightness": _range("brightness", brightness, neutral=1),
            "contrast": _range("contrast", contrast, neutral=1),
            "saturation": _range("saturation", saturation, neutral=1),
            "hue": _range("hue", hue, neutral=0),
        }

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        ranges = list(self.ranges.items())
        order = [ranges[number] for number in rng.permutation(len(ranges))]
        drawn = [(kind, rng.uniform(*limits)) for kind, limits in order if limits]
        return adjust_colors(image, drawn), label
