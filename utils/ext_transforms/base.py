"""What the joint transforms of this package share: their base class, and moving pixels.

A picture is an image (H, W, 3) RGB and its label (H, W), both uint8. Sizes are (H, W).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from utils.utils import IGNORE_INDEX

Rng = np.random.Generator
Size = int | tuple[int, int]
Color = tuple[int, int, int]
Picture = tuple[np.ndarray, np.ndarray]

MEAN_COLOR: Color = (124, 116, 104)  # ImageNet's mean


class JointTransform:
    """Base of the transforms of an image and its label; a subclass writes `apply`.

    Arrays give arrays, which may be views of what came; PIL pictures give PIL pictures. Whatever is
    random is drawn from `rng` alone; without one, from a fresh generator.
    """

    def __call__(self, image: Any, label: Any, rng: Rng | None = None) -> tuple[Any, Any]:
        rng = np.random.default_rng() if rng is None else rng
        pixels, ids = _as_array(image, is_image=True), _as_array(label, is_image=False)
        if isinstance(ids, np.ndarray) and ids.dtype != np.uint8:
            raise ValueError(f"labels must be uint8, got {ids.dtype}; convert with astype('uint8')")
        if isinstance(pixels, np.ndarray) and pixels.shape[:2] != ids.shape[:2]:
            raise ValueError(
                f"sizes differ: the image is {_size_text(pixels)}, its label {_size_text(ids)}"
            )
        new_pixels, new_ids = self.apply(pixels, ids, rng)
        return _as_given(new_pixels, pixels, image), _as_given(new_ids, ids, label)

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> tuple[Any, Any]:
        """Image (H, W, 3) and label (H, W), both uint8 and maybe read-only, transformed."""
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def _as_array(picture: Any, *, is_image: bool) -> Any:
    if not isinstance(picture, Image.Image):
        return picture
    if is_image and picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.asarray(picture)


def _as_given(result: Any, before: Any, given: Any) -> Any:
    """A PIL picture where one was given, the very same where nothing was changed."""
    if result is before:
        return given
    if not isinstance(given, Image.Image) or not isinstance(result, np.ndarray):
        return result
    picture = Image.fromarray(result)
    if given.mode == "P" and result.dtype == np.uint8:
        picture.putpalette(given.getpalette())
    return picture


def _size_text(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def check_size(size: Size) -> tuple[int, int]:
    """(H, W) of a size, or of the side of a square; less than a pixel is a ValueError."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    return height, width


def check_bilinear(interpolation: int) -> None:
    """Raise ValueError for any interpolation of images but Pillow's BILINEAR."""
    if interpolation != Image.Resampling.BILINEAR:
        raise ValueError(
            f"interpolation must be Image.BILINEAR, got {interpolation!r}; images are resized "
            "bilinearly only"
        )


def scaled_length(length: int, factor: float) -> int:
    """Pixels of a side after scaling: rounded down, as torchvision does, but at least one."""
    return max(1, int(length * factor))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, antialiased where it shrinks: the pixels of Pillow's and torchvision's resize."""
    if image.shape[:2] == size:
        return image
    # A copy, since torch takes no read-only arrays. This layout of the strides is the one that its
    # vectorised kernel for uint8 takes.
    batch = torch.from_numpy(np.array(image, order="C"))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _nearest(available: int, wanted: int) -> np.ndarray:
    """Along one side: the source pixel under the centre of each of the `wanted` pixels."""
    steps = np.full(wanted, available / wanted)
    steps[0] /= 2
    # Summed up as Pillow does: where a centre lies between two pixels, rounding decides.
    return np.cumsum(steps).astype(np.intp)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixel centre's value: the pixels of Pillow's and torchvision's resize."""
    if label.shape[:2] == size:
        return label
    # OpenCV's INTER_NEAREST is half a pixel off, its INTER_NEAREST_EXACT not the same in 4 and 5.
    rows, columns = map(_nearest, label.shape[:2], size)
    return label[rows].take(columns, axis=1)


def resize(image: np.ndarray, label: np.ndarray, size: tuple[int, int]) -> Picture:
    """Both of them to (H, W)."""
    return resize_image(image, size), resize_label(label, size)


def pad_plane(
    plane: np.ndarray, fill: int | Color, *, left: int, top: int, right: int, bottom: int
) -> np.ndarray:
    """Add borders of the value or colour `fill`; the same array where they are all 0."""
    if left == top == right == bottom == 0:
        return plane
    value = (fill,) if isinstance(fill, int) else fill
    return cv2.copyMakeBorder(plane, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value)


def cut_plane(
    plane: np.ndarray, fill: int | Color, *, left: int, top: int, size: tuple[int, int]
) -> np.ndarray:
    """The window of `size` (H, W) at (left, top); what lies outside the picture is `fill`."""
    bottom, right = top + size[0], left + size[1]
    height, width = plane.shape[:2]
    inside = plane[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    return pad_plane(
        inside,
        fill,
        left=max(-left, 0),
        top=max(-top, 0),
        right=max(right - width, 0),
        bottom=max(bottom - height, 0),
    )


def cut(
    image: np.ndarray,
    label: np.ndarray,
    *,
    left: int,
    top: int,
    size: tuple[int, int],
    image_fill: Color,
) -> Picture:
    """The window of `size` (H, W) at (left, top) of both; outside, the label is ignored."""
    return (
        cut_plane(image, image_fill, left=left, top=top, size=size),
        cut_plane(label, IGNORE_INDEX, left=left, top=top, size=size),
    )
