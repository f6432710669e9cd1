"""The simple joint transforms: compose, resize, center crop, flips, and pictures to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import base
from .base import MEAN_COLOR, AnyTransform, Color, JointTransform, Picture, Rng, Size


class ExtCompose(JointTransform):
    """Apply transforms one after another, all drawing from one generator.

    A transform without a parameter `rng` is called with image and label alone, and draws itself.
    """

    def __init__(self, transforms: Sequence[AnyTransform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any, label: Any, rng: Rng | None = None) -> tuple[Any, Any]:
        rng = base.new_rng() if rng is None else rng
        for transform in self.transforms:
            image, label = base.call(transform, image, label, rng)
        return image, label

    @property
    def takes_pictures(self) -> bool:
        return any(map(base.takes_pictures, self.transforms))

    def __repr__(self) -> str:
        lines = "".join(f"\n    {transform}" for transform in self.transforms)
        return f"{type(self).__name__}({lines}\n)"


class ExtResize(JointTransform):
    """Resize to (H, W), or the shorter side to a number of pixels."""

    def __init__(self, size: Size, interpolation: int = Image.Resampling.BILINEAR) -> None:
        base.check_bilinear(interpolation)
        height, width = base.check_size(size)
        self.size = (height, width) if isinstance(size, Sequence) else height

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        if isinstance(self.size, int):
            sides = image.shape[:2]
            height, width = (max(1, side * self.size // min(sides)) for side in sides)
        else:
            height, width = self.size
        return base.resize(image, label, (height, width))


class ExtCenterCrop(JointTransform):
    """Crop the center; a smaller picture is padded."""

    def __init__(self, size: Size, *, image_fill: Color = MEAN_COLOR) -> None:
        self.size = base.check_size(size)
        self.image_fill = image_fill

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        top, left = (
            round(spare / 2) if spare >= 0 else -(-spare // 2)
            for spare in (image.shape[0] - self.size[0], image.shape[1] - self.size[1])
        )
        size, fill = self.size, self.image_fill
        return base.cut(image, label, left=left, top=top, size=size, image_fill=fill)


class _RandomFlip(JointTransform):
    axis: int  # of OpenCV: 0 swaps top and bottom, 1 left and right

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability from 0 to 1, got {p}")
        self.p = p

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        if rng.random() < self.p:
            return cv2.flip(image, self.axis), cv2.flip(label, self.axis)
        return image, label


class ExtRandomHorizontalFlip(_RandomFlip):
    """Swap left and right with probability p."""

    axis = 1


class ExtRandomVerticalFlip(_RandomFlip):
    """Swap top and bottom with probability p."""

    axis = 0


class ExtPILToTensor(JointTransform):
    """Image -> (3, H, W) and label -> (H, W): new uint8 tensors."""

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> tuple[Tensor, Tensor]:
        pixels = torch.empty(3, *image.shape[:2], dtype=torch.uint8)
        cv2.split(image, list(pixels.numpy()))  # fills the planes, much faster than permute()
        return pixels, torch.from_numpy(np.array(label, order="C"))
