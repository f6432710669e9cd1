"""Joint transforms of an image and its label, and the training and validation pipelines.

Each takes (image, label, rng) and gives both back: arrays for arrays, PIL pictures for PIL
pictures. What is random is drawn from `rng` alone, never from a global generator, so that a sample
looks the same whichever worker makes it; called without one, a fresh generator is used. Ranges,
probabilities and rounding are those of torchvision.transforms.v2. Images are interpolated
bilinearly, labels, which are uint8, take the nearest pixel. Where a picture is padded, the label
gets 255 (ignored) and the image the fill colour. Sizes are (H, W), or one int for a square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.color_jitter import ExtColorJitter
from utils.joint_transform import (
    IGNORE,
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
    scaled_length,
)
from utils.random_crop import ExtRandomCrop, ExtRandomScaleCrop, check_scale

__all__ = [
    "IGNORE",
    "MEAN_COLOR",
    "ExtCenterCrop",
    "ExtColorJitter",
    "ExtCompose",
    "ExtLambda",
    "ExtNormalize",
    "ExtPILToTensor",
    "ExtPad",
    "ExtRandomCrop",
    "ExtRandomHorizontalFlip",
    "ExtRandomRotation",
    "ExtRandomScale",
    "ExtRandomScaleCrop",
    "ExtRandomVerticalFlip",
    "ExtResize",
    "ExtScale",
    "ExtToTensor",
    "JointTransform",
    "train_transform",
    "val_transform",
]


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


class ExtRandomScale(JointTransform):
    """Scale the whole picture by a uniform factor."""

    def __init__(
        self,
        scale_range: tuple[float, float] = (0.5, 2.0),
        interpolation: int = Image.Resampling.BILINEAR,
    ) -> None:
        self.scale_range = check_scale(scale_range)
        check_bilinear(interpolation)

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        factor = rng.uniform(*self.scale_range)
        height, width = (scaled_length(side, factor) for side in image.shape[:2])
        return resize(image, label, (height, width))


class ExtScale(ExtRandomScale):
    """Scale the whole picture by a fixed factor."""

    def __init__(self, scale: float, interpolation: int = Image.Resampling.BILINEAR) -> None:
        super().__init__((scale, scale), interpolation)


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


class ExtPad(JointTransform):
    """Pad on all sides, evenly, until `diviser` divides height and width."""

    def __init__(self, diviser: int = 32, *, image_fill: Color = MEAN_COLOR) -> None:
        if diviser < 1:
            raise ValueError(f"diviser must be 1 or more, got {diviser}")
        self.diviser = diviser
        self.image_fill = image_fill

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        size = tuple(-(-side // self.diviser) * self.diviser for side in image.shape[:2])
        return ExtCenterCrop(size, image_fill=self.image_fill).apply(image, label, rng)


class _RandomFlip(JointTransform):
    axis: int  # as OpenCV counts: 0 turns upside down, 1 left to right

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability, 0..1, got {p}")
        self.p = p

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        if rng.random() < self.p:
            return cv2.flip(image, self.axis), cv2.flip(label, self.axis)
        return image, label


class ExtRandomHorizontalFlip(_RandomFlip):
    """Mirror left and right with probability p."""

    axis = 1


class ExtRandomVerticalFlip(_RandomFlip):
    """Turn upside down with probability p."""

    axis = 0


class ExtRandomRotation(JointTransform):
    """Turn counter-clockwise by a uniform angle, about the centre or the pixel `center` (x, y).

    `degrees` is the range, or x for -x..x. `resample` is how Pillow turns the image. `expand` makes
    the picture as large as what was turned.
    """

    def __init__(
        self,
        degrees: float | tuple[float, float],
        resample: int = Image.Resampling.BILINEAR,
        expand: bool = False,
        center: tuple[float, float] | None = None,
        *,
        image_fill: Color = MEAN_COLOR,
    ) -> None:
        low, high = (-degrees, degrees) if isinstance(degrees, int | float) else degrees
        if not low <= high:
            raise ValueError(f"degrees must be 0 or more, or low <= high, got {degrees}")
        if resample not in (Image.NEAREST, Image.BILINEAR, Image.BICUBIC):
            raise ValueError(
                f"resample must be Image.NEAREST, BILINEAR or BICUBIC, got {resample!r}"
            )
        self.degrees = (low, high)
        self.resample = Image.Resampling(resample)
        self.expand = expand
        self.center = center
        self.image_fill = image_fill

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        angle = rng.uniform(*self.degrees)
        turned = [
            Image.fromarray(plane).rotate(
                angle, resampling, expand=self.expand, center=self.center, fillcolor=fill
            )
            for plane, resampling, fill in (
                (image, self.resample, self.image_fill),
                (label, Image.Resampling.NEAREST, IGNORE),
            )
        ]
        return np.asarray(turned[0]), np.asarray(turned[1])


class ExtLambda(JointTransform):
    """Give the image to a function, as it is; the label stays."""

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        self.lambd = lambd

    def __call__(self, image: Any, label: Any, rng: Rng | None = None) -> tuple[Any, Any]:
        return self.lambd(image), label


class ExtPILToTensor(JointTransform):
    """Image -> (3, H, W) and label -> (H, W), both uint8 tensors of their own."""

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> tuple[Tensor, Tensor]:
        pixels = torch.empty(3, *image.shape[:2], dtype=torch.uint8)
        cv2.split(image, list(pixels.numpy()))  # fills them; several times as fast as permute()
        return pixels, torch.from_numpy(np.array(label, order="C"))


class ExtToTensor(JointTransform):
    """Image -> (3, H, W) float32, in 0..1 if `normalize` and else 0..255, and label -> (H, W)."""

    def __init__(self, normalize: bool = True, target_type: str = "uint8") -> None:
        self.normalize = normalize
        self.target_type = target_type

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> tuple[Tensor, Tensor]:
        pixels, _ = ExtPILToTensor().apply(image, label, rng)
        pixels = pixels.float().div(255) if self.normalize else pixels.float()
        return pixels, torch.from_numpy(np.array(label, dtype=self.target_type, order="C"))


class ExtNormalize(JointTransform):
    """(image - mean) / std for each channel of a float tensor (C, H, W)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = tuple(mean)
        self.std = tuple(std)

    def apply(self, image: Tensor, label: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image - mean) / std, label


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
