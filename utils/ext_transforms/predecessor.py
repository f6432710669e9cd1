"""More joint transforms, which the predecessor has and the pipelines here do not use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.utils import IGNORE_INDEX

from . import base
from .base import MEAN_COLOR, Color, JointTransform, Picture, Rng
from .random_crop import check_scale
from .transforms import ExtCenterCrop, ExtPILToTensor


class ExtRandomScale(JointTransform):
    """Scale the whole picture by a random factor."""

    def __init__(
        self,
        scale_range: tuple[float, float] = (0.5, 2.0),
        interpolation: int = Image.Resampling.BILINEAR,
    ) -> None:
        self.scale_range = check_scale(scale_range)
        base.check_bilinear(interpolation)

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        factor = rng.uniform(*self.scale_range)
        height, width = (base.scaled_length(side, factor) for side in image.shape[:2])
        return base.resize(image, label, (height, width))


class ExtScale(ExtRandomScale):
    """Scale the whole picture by a fixed factor."""

    def __init__(self, scale: float, interpolation: int = Image.Resampling.BILINEAR) -> None:
        super().__init__((scale, scale), interpolation)


class ExtPad(JointTransform):
    """Pad all sides evenly until `diviser` divides height and width."""

    def __init__(self, diviser: int = 32, *, image_fill: Color = MEAN_COLOR) -> None:
        if diviser < 1:
            raise ValueError(f"diviser must be 1 or more, got {diviser}")
        self.diviser = diviser
        self.image_fill = image_fill

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> Picture:
        height, width = (-(-side // self.diviser) * self.diviser for side in image.shape[:2])
        return ExtCenterCrop((height, width), image_fill=self.image_fill).apply(image, label, rng)


class ExtRandomRotation(JointTransform):
    """Turn counterclockwise by a random angle, around the center or the pixel `center` (x, y).

    `degrees` is the range, or a number x for -x..x. `resample` is Pillow's mode for the image.
    `expand` enlarges the picture so that nothing is cut off.
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
            raise ValueError(
                f"degrees must be a number >= 0 or a range with low <= high, got {degrees}"
            )
        modes = Image.Resampling
        if resample not in (modes.NEAREST, modes.BILINEAR, modes.BICUBIC):
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
                (label, Image.Resampling.NEAREST, IGNORE_INDEX),
            )
        ]
        return np.asarray(turned[0]), np.asarray(turned[1])


class ExtLambda(JointTransform):
    """Apply a function to the image as it was given; the label stays."""

    @property
    def takes_pictures(self) -> bool:
        return True

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        self.lambd = lambd

    def __call__(self, image: Any, label: Any, rng: Rng | None = None) -> tuple[Any, Any]:
        return self.lambd(image), label


class ExtToTensor(JointTransform):
    """Image -> (3, H, W) float32 in 0..1, or in 0..255 without `normalize`; label -> (H, W)."""

    def __init__(self, normalize: bool = True, target_type: str = "uint8") -> None:
        self.normalize = normalize
        self.target_type = target_type

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> tuple[Tensor, Tensor]:
        pixels, _ = ExtPILToTensor().apply(image, label, rng)
        pixels = pixels.float().div(255) if self.normalize else pixels.float()
        return pixels, torch.from_numpy(np.array(label, dtype=self.target_type, order="C"))


class ExtNormalize(JointTransform):
    """(image - mean) / std for each channel of a float tensor (C, H, W); the label stays."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = tuple(mean)
        self.std = tuple(std)

    def __call__(self, image: Any, label: Any, rng: Rng | None = None) -> tuple[Any, Any]:
        mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image - mean) / std, label


class Lambda:
    """Apply a function to one picture."""

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        self.lambd = lambd

    def __call__(self, image: Any) -> Any:
        return self.lambd(image)


class Compose:
    """Apply transforms of one picture one after another."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image
