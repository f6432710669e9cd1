"""Joint transforms of an image and its label, and the training and validation pipelines.

Each takes (image, label, rng) and gives both back. What is random is drawn from `rng` alone, never
from a global generator, so that a sample looks the same whichever worker makes it. Images are
interpolated bilinearly, labels take the nearest pixel. Where a picture is padded, the label gets
255 (ignored) and the image the fill colour. Sizes are (H, W), or one int for a square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

Pair = tuple[Image.Image, Image.Image]
Rng = np.random.Generator
Size = int | tuple[int, int]
Color = tuple[int, int, int]

MEAN_COLOR: Color = (124, 116, 104)  # ImageNet's mean
IGNORE = 255


def _check_size(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    return height, width


def _check_scale(scale: Sequence[float]) -> tuple[float, float]:
    low, high = scale
    if not 0 < low <= high or not math.isfinite(high):
        raise ValueError(f"scale must be 0 < low <= high, got ({low}, {high})")
    return low, high


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resize(image: Image.Image, label: Image.Image, width: int, height: int) -> Pair:
    size = (width, height)
    return (
        image.resize(size, Image.Resampling.BILINEAR),
        label.resize(size, Image.Resampling.NEAREST),
    )


def _crop(
    image: Image.Image, label: Image.Image, left: int, top: int, size: tuple[int, int], fill: Color
) -> Pair:
    """Cut `size` (H, W) at (left, top); what lies outside the picture is padding."""
    height, width = size
    if 0 <= left and 0 <= top and left + width <= image.width and top + height <= image.height:
        box = (left, top, left + width, top + height)
        return image.crop(box), label.crop(box)
    image_canvas = Image.new("RGB", (width, height), fill)
    label_canvas = Image.new("L", (width, height), IGNORE)
    image_canvas.paste(image, (-left, -top))
    label_canvas.paste(label, (-left, -top))
    return image_canvas, label_canvas


def _random_offset(available: int, wanted: int, rng: Rng) -> int:
    """Uniform start of a window; negative, also uniform, where the picture is smaller than it."""
    spare = available - wanted
    offset = int(rng.integers(0, abs(spare) + 1))
    return offset if spare >= 0 else -offset


class ExtCompose:
    """Apply transforms one after another, all drawing from one generator."""

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Any:
        rng = np.random.default_rng() if rng is None else rng
        for transform in self.transforms:
            image, label = transform(image, label, rng)
        return image, label


class ExtRandomScaleCrop:
    """Scale by a uniform factor and crop at a uniform position, padding where it is too small.

    Same distribution as ExtRandomScale and ExtRandomCrop, but only the part of the picture that
    ends up in the crop is resized: on large pictures this is most of the time saved.
    """

    def __init__(
        self,
        size: Size,
        scale: tuple[float, float] = (0.5, 2.0),
        image_fill: Color = MEAN_COLOR,
    ) -> None:
        self.size = _check_size(size)
        self.scale = _check_scale(scale)
        self.image_fill = image_fill

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Pair:
        rng = np.random.default_rng() if rng is None else rng
        full_width, full_height = _scaled(image.size, rng.uniform(*self.scale))
        top = _random_offset(full_height, self.size[0], rng)
        left = _random_offset(full_width, self.size[1], rng)
        height, width = min(full_height, self.size[0]), min(full_width, self.size[1])
        # The window in the scaled picture, taken back to where its pixels come from.
        per_x, per_y = image.width / full_width, image.height / full_height
        first_x, first_y = max(left, 0), max(top, 0)
        box = (
            first_x * per_x,
            first_y * per_y,
            min((first_x + width) * per_x, image.width),  # rounding may pass the edge
            min((first_y + height) * per_y, image.height),
        )
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        label = label.resize((width, height), Image.Resampling.NEAREST, box=box)
        return _crop(image, label, min(left, 0), min(top, 0), self.size, self.image_fill)


class ExtRandomScale:
    """Scale the whole picture by a uniform factor."""

    def __init__(self, scale: tuple[float, float] = (0.5, 2.0)) -> None:
        self.scale = _check_scale(scale)

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Pair:
        rng = np.random.default_rng() if rng is None else rng
        return _resize(image, label, *_scaled(image.size, rng.uniform(*self.scale)))


class ExtRandomCrop:
    """Cut a window at a uniform position; a picture smaller than it needs `pad_if_needed`."""

    def __init__(
        self, size: Size, pad_if_needed: bool = False, image_fill: Color = MEAN_COLOR
    ) -> None:
        self.size = _check_size(size)
        self.pad_if_needed = pad_if_needed
        self.image_fill = image_fill

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Pair:
        rng = np.random.default_rng() if rng is None else rng
        height, width = self.size
        if not self.pad_if_needed and (image.height < height or image.width < width):
            raise ValueError(
                f"crop {width}x{height} is larger than the {image.width}x{image.height} image; "
                "use a smaller size or pad_if_needed=True"
            )
        top = _random_offset(image.height, height, rng)
        left = _random_offset(image.width, width, rng)
        return _crop(image, label, left, top, self.size, self.image_fill)


class ExtResize:
    """Resize to (H, W); an int is the new length of the shorter side."""

    def __init__(self, size: Size) -> None:
        _check_size(size)
        self.size = size

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Pair:
        if isinstance(self.size, int):
            shorter = min(image.size)
            width, height = (max(1, side * self.size // shorter) for side in image.size)
        else:
            height, width = self.size
        return _resize(image, label, width, height)


class ExtCenterCrop:
    """Cut the middle; a smaller picture is padded."""

    def __init__(self, size: Size, image_fill: Color = MEAN_COLOR) -> None:
        self.size = _check_size(size)
        self.image_fill = image_fill

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Pair:
        left = (image.width - self.size[1]) // 2
        top = (image.height - self.size[0]) // 2
        return _crop(image, label, left, top, self.size, self.image_fill)


class ExtRandomHorizontalFlip:
    """Mirror left and right with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Pair:
        rng = np.random.default_rng() if rng is None else rng
        if rng.random() < self.p:
            flip = Image.Transpose.FLIP_LEFT_RIGHT
            return image.transpose(flip), label.transpose(flip)
        return image, label


class ExtColorJitter:
    """Change brightness, contrast and saturation by factors in 1-x..1+x, and hue by -x..x.

    In random order. Hue is at most 0.5, half the colour circle. The label stays as it is.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
    ) -> None:
        if min(brightness, contrast, saturation) < 0 or not 0 <= hue <= 0.5:
            raise ValueError(
                "brightness, contrast and saturation must be 0 or more, hue 0..0.5; "
                f"got {brightness}, {contrast}, {saturation}, {hue}"
            )
        self.adjustments = [
            (functional.adjust_brightness, max(0.0, 1 - brightness), 1 + brightness),
            (functional.adjust_contrast, max(0.0, 1 - contrast), 1 + contrast),
            (functional.adjust_saturation, max(0.0, 1 - saturation), 1 + saturation),
            (functional.adjust_hue, -hue, hue),
        ]

    def __call__(self, image: Image.Image, label: Image.Image, rng: Rng | None = None) -> Pair:
        rng = np.random.default_rng() if rng is None else rng
        for number in rng.permutation(len(self.adjustments)):
            adjust, low, high = self.adjustments[number]
            if low < high:  # an adjustment of no strength is left out
                image = adjust(image, rng.uniform(low, high))
        return image, label


class ExtPILToTensor:
    """Image -> (3, H, W) and label -> (H, W), both uint8."""

    def __call__(
        self, image: Image.Image, label: Image.Image, rng: Rng | None = None
    ) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.array(image))  # (H, W, 3)
        return pixels.permute(2, 0, 1).contiguous(), torch.from_numpy(np.array(label))


def train_transform(
    crop_size: int, *, scale_range: tuple[float, float] = (0.5, 2.0), color_jitter: float = 0.0
) -> ExtCompose:
    """Random scale and crop, colour jitter of the given strength, flip; uint8 tensors out."""
    return ExtCompose(
        [
            ExtRandomScaleCrop(crop_size, scale_range),
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
