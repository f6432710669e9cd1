"""The training and validation pipelines, and the transforms they consist of.

See base.py for what a transform is, random_crop.py and color_jitter.py for the random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .base import (
    MEAN_COLOR,
    Color,
    JointTransform,
    Picture,
    Rng,
    Size,
    check_bilinear,
    check_size,
    cut,
    resize,
)
from .color_jitter import ExtColorJitter
from .random_crop import ExtRandomScaleCrop


class ExtCompose:
    """Apply transforms one after another, all drawing from one generator."""

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any, label: Any, rng: Rng | None = None) -> tuple[Any, Any]:
        rng = np.random.default_rng() if rng is None else rng
        for transform in self.transforms:
            image, label = transform(image, label, rng)
        return image, label

    def __repr__(self) -> str:
        lines = "".join(f"\n    {transform}" for transform in self.transforms)
        return f"{type(self).__name__}({lines}\n)"


class ExtResize(JointTransform):
    """Resize to (H, W); an int is the new length of the shorter side."""

    def __init__(self, size: Size, interpolation: int = Image.Resampling.BILINEAR) -> None:
        check_bilinear(interpolation)
        check_size(size)
        self.size = size

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        if isinstance(self.size, int):
            sides = image.shape[:2]
            height, width = (max(1, side * self.size // min(sides)) for side in sides)
        else:
            height, width = self.size
        return resize(image, label, (height, width))


class ExtCenterCrop(JointTransform):
    """Cut the middle; a smaller picture is padded."""

    def __init__(self, size: Size, *, image_fill: Color = MEAN_COLOR) -> None:
        self.size = check_size(size)
        self.image_fill = image_fill

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        top, left = (
            round(spare / 2) if spare >= 0 else -(-spare // 2)
            for spare in (image.shape[0] - self.size[0], image.shape[1] - self.size[1])
        )
        return cut(image, label, left=left, top=top, size=self.size, image_fill=self.image_fill)


class RandomFlip(JointTransform):
    axis: int  # as OpenCV counts: 0 turns upside down, 1 left to right

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability, 0..1, got {p}")
        self.p = p

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        if rng.random() < self.p:
            return cv2.flip(image, self.axis), cv2.flip(label, self.axis)
        return image, label


class ExtRandomHorizontalFlip(RandomFlip):
    """Mirror left and right with probability p."""

    axis = 1


class ExtPILToTensor(JointTransform):
    """Image -> (3, H, W) and label -> (H, W), both uint8 tensors of their own."""

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> tuple[Tensor, Tensor]:
        pixels = torch.empty(3, *image.shape[:2], dtype=torch.uint8)
        cv2.split(image, list(pixels.numpy()))  # fills them; several times as fast as permute()
        return pixels, torch.from_numpy(np.array(label, order="C"))


def train_transform(
    crop_size: int,
    *,
    scale_range: tuple[float, float] = (0.5, 2.0),
    color_jitter: float = 0.0,
    cat_max_ratio: float = 1.0,
) -> ExtCompose:
    """Random scale and crop, colour jitter of the given strength, flip; uint8 tensors out."""
    return ExtCompose(
        [
            ExtRandomScaleCrop(crop_size, scale_range, cat_max_ratio=cat_max_ratio),
            ExtColorJitter(color_jitter, color_jitter, color_jitter),
            ExtRandomHorizontalFlip(),
            ExtPILToTensor(),
        ]
    )


def val_transform(crop_size: int | None = None) -> ExtCompose:
    """The whole picture; or, with a crop size, its shorter side resized to it and the middle cut.

    Scores on crops are not comparable with published ones, which are on whole pictures.
    """
    if crop_size is None:
        return ExtCompose([ExtPILToTensor()])
    return ExtCompose([ExtResize(crop_size), ExtCenterCrop(crop_size), ExtPILToTensor()])
