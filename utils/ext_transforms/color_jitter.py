"""Random changes of colour, with torchvision v2's ColorJitter as the model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import cv2
import numpy as np

from .base import JointTransform, Picture, Rng

GREY = np.array([0.2989, 0.587, 0.114])  # luma of R, G, B (ITU-R BT.601), as torchvision has it
UNCHANGED = np.eye(3, 4)


class Adjustment(IntEnum):
    """What can be changed, in the order of the arguments."""

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2
    HUE = 3


def adjust_colors(image: np.ndarray, adjustments: Sequence[tuple[Adjustment, float]]) -> np.ndarray:
    """Make the adjustments one after another on an RGB image (H, W, 3) uint8.

    Brightness, contrast and saturation blend by a factor from 0 with black, the mean grey and each
    pixel's own grey; hue turns by a part of the colour circle, -0.5..0.5.
    """
    # The first three are affine in the colour. Those that blend by at most 1 give nothing that has
    # to be clipped, so they wait and are done together with the next: fewer passes, same pixels.
    waiting = UNCHANGED
    for kind, factor in adjustments:
        if kind is Adjustment.HUE:
            image, waiting = _turn_hue(_transform(image, waiting), factor), UNCHANGED
            continue
        other = _blended_with(kind, image, waiting)
        waiting = factor * waiting + (1 - factor) * other
        if factor > 1:
            image, waiting = _transform(image, waiting), UNCHANGED
    return _transform(image, waiting)


def _blended_with(kind: Adjustment, image: np.ndarray, waiting: np.ndarray) -> np.ndarray:
    """Affine map (3, 4) from the image's colours to those that the adjustment blends with."""
    other = np.zeros((3, 4))
    if kind is Adjustment.CONTRAST:
        mean = waiting @ np.append(cv2.mean(image)[:3], 1)
        other[:, 3] = GREY @ mean
    elif kind is Adjustment.SATURATION:
        other[:] = GREY @ waiting
    return other


def _transform(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The colours mapped by `affine` (3, 4), rounded and clipped."""
    return image if affine is UNCHANGED else cv2.transform(image, affine)


def _turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # all three 0..255, hue is cyclic
    table = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    table[:, 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB_FULL)


Strength = float | tuple[float, float]


def _range(name: str, strength: Strength, *, neutral: float) -> tuple[float, float] | None:
    """Lowest and highest factor, or None where there is nothing to change."""
    if isinstance(strength, int | float):
        if strength < 0:
            raise ValueError(f"{name} must be 0 or more, or (low, high), got {strength}")
        low, high = neutral - strength, neutral + strength
        low = max(low, 0.0) if neutral else low
    else:
        low, high = strength
    least, most = (0.0, float("inf")) if neutral else (-0.5, 0.5)
    if not least <= low <= high <= most:
        allowed = "0 <= low <= high" if neutral else "0..0.5, or -0.5 <= low <= high <= 0.5"
        raise ValueError(f"{name} must be {allowed}, got {strength}")
    return None if low == high == neutral else (low, high)


class ExtColorJitter(JointTransform):
    """Change brightness, contrast, saturation and hue by uniform factors, in random order.

    A number x stands for factors 1-x..1+x, but not below 0, and for turns of the hue of -x..x; a
    pair is the range itself. The label stays as it is.
    """

    def __init__(
        self,
        brightness: Strength = 0.0,
        contrast: Strength = 0.0,
        saturation: Strength = 0.0,
        hue: Strength = 0.0,
    ) -> None:
        self.ranges = {
            Adjustment.BRIGHTNESS: _range("brightness", brightness, neutral=1),
            Adjustment.CONTRAST: _range("contrast", contrast, neutral=1),
            Adjustment.SATURATION: _range("saturation", saturation, neutral=1),
            Adjustment.HUE: _range("hue", hue, neutral=0),
        }

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        order = map(Adjustment, rng.permutation(len(Adjustment)).tolist())
        drawn = [(kind, rng.uniform(*self.ranges[kind])) for kind in order if self.ranges[kind]]
        return adjust_colors(image, drawn), label
