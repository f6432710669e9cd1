"""What the transforms share: their base class, and functions that resize, cut and pad.

A picture is an image (H, W, 3) RGB and its label (H, W), both uint8. Sizes are (H, W).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from utils.utils import IGNORE_INDEX

Rng = np.random.Generator
Size = float | tuple[float, float]  # in whole pixels, rounded down
Color = tuple[int, int, int]
Picture = tuple[np.ndarray, np.ndarray]
AnyTransform = Callable[..., tuple[Any, Any]]

MEAN_COLOR: Color = (124, 116, 104)  # ImageNet's mean


class JointTransform:
    """Base class of the transforms of an image and its label; a subclass writes `apply`.

    Arrays give arrays, which may be views of the inputs. PIL pictures give PIL pictures. All random
    numbers come from `rng`; where none is given, from torch's global generator.
    """

    @property
    def takes_pictures(self) -> bool:
        """Whether it asks for PIL pictures, not arrays."""
        return False

    def __call__(self, image: Any, label: Any, rng: Rng | None = None) -> tuple[Any, Any]:
        rng = new_rng() if rng is None else rng
        pixels, ids = _as_array(image, is_image=True), _as_array(label, is_image=False)
        if isinstance(ids, np.ndarray) and ids.dtype != np.uint8:
            raise ValueError(f"labels must be uint8, got {ids.dtype}; convert with astype('uint8')")
        if isinstance(pixels, np.ndarray) and pixels.shape[:2] != ids.shape[:2]:
            image_size, label_size = (f"{a.shape[1]}x{a.shape[0]}" for a in (pixels, ids))
            raise ValueError(f"the image is {image_size}, but its label is {label_size}")
        new_pixels, new_ids = self.apply(pixels, ids, rng)
        return _as_given(new_pixels, pixels, image), _as_given(new_ids, ids, label)

    def apply(self, image: np.ndarray, label: np.ndarray, rng: Rng) -> tuple[Any, Any]:
        """Transform an image (H, W, 3) and a label (H, W), both uint8 and perhaps read-only."""
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def new_rng() -> Rng:
    """A generator seeded from torch's global one, which a DataLoader seeds in its processes."""
    return np.random.default_rng(int(torch.randint(1 << 62, ())))


def call(transform: AnyTransform, image: Any, label: Any, rng: Rng) -> tuple[Any, Any]:
    """`transform(image, label)`, with `rng` if it has a parameter of that name."""
    if isinstance(transform, JointTransform) or "rng" in _parameters(transform):
        return transform(image, label, rng=rng)
    return transform(image, label)


def takes_pictures(transform: AnyTransform) -> bool:
    """Whether it asks for PIL pictures, as the predecessor's transforms do.

    It asks for arrays with a parameter `rng`, or with `np.ndarray` as the type of its image.
    """
    if isinstance(transform, JointTransform):
        return transform.takes_pictures
    parameters = _parameters(transform)
    image = next(iter(parameters.values()), None)
    wants_array = image is not None and "ndarray" in str(image.annotation)
    return "rng" not in parameters and not wants_array


def _parameters(transform: AnyTransform) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(getattr(transform, "forward", transform)).parameters
    except (TypeError, ValueError, NameError):  # some functions written in C do not tell
        return {}


def _as_array(picture: Any, *, is_image: bool) -> Any:
    """A PIL picture as an array; anything else as it is."""
    if not isinstance(picture, Image.Image):
        return picture
    if is_image and picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.asarray(picture)


def _as_given(result: Any, before: Any, given: Any) -> Any:
    """The result as what was given: a PIL picture, or `given` itself where nothing changed."""
    if result is before:
        return given
    if not isinstance(given, Image.Image) or not isinstance(result, np.ndarray):
        return result
    picture = Image.fromarray(result)
    palette = given.getpalette() if given.mode == "P" else None
    if palette is not None and result.dtype == np.uint8:
        picture.putpalette(palette)
    return picture


def check_size(size: Size) -> tuple[int, int]:
    """(H, W) of a size, where a number is a square; sizes below 1 pixel are a ValueError."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    if not (1 <= height < math.inf and 1 <= width < math.inf):
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    return int(height), int(width)


def check_bilinear(interpolation: int) -> None:
    """Raise ValueError unless images are to be interpolated with Pillow's BILINEAR."""
    if interpolation != Image.Resampling.BILINEAR:
        raise ValueError(
            f"interpolation must be Image.BILINEAR, got {interpolation!r}; "
            "images can be resized bilinearly only"
        )


def scaled_length(length: int, factor: float) -> int:
    """The length of a side after scaling: rounded down, as in torchvision, but at least 1."""
    return max(1, int(length * factor))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize bilinearly, with antialiasing, to the pixels that Pillow and torchvision give."""
    if image.shape[:2] == size:
        return image
    # torch needs a writable array, hence the copy. Its vectorized kernel for uint8 needs this order
    # of the strides.
    batch = torch.from_numpy(np.array(image, order="C"))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(batch, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _nearest(available: int, wanted: int) -> np.ndarray:
    """Along one side: the source pixel under the center of each of the `wanted` pixels."""
    steps = np.full(wanted, available / wanted)
    steps[0] /= 2
    # Pillow adds up the steps, too: for a center between two pixels its rounding decides.
    return np.cumsum(steps).astype(np.intp)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to the nearest pixels, the same ones that Pillow and torchvision take."""
    if label.shape[:2] == size:
        return label
    # OpenCV's INTER_NEAREST is half a pixel off; INTER_NEAREST_EXACT differs between its versions.
    rows, columns = map(_nearest, label.shape[:2], size)
    return label[rows].take(columns, axis=1)


def resize(image: np.ndarray, label: np.ndarray, size: tuple[int, int]) -> Picture:
    """Resize both to (H, W)."""
    return resize_image(image, size), resize_label(label, size)


def cut(
    image: np.ndarray,
    label: np.ndarray,
    *,
    left: int,
    top: int,
    size: tuple[int, int],
    image_fill: Color,
) -> Picture:
    """Cut the window of `size` (H, W) at (left, top); the part outside the picture is padded.

    Padding of the label is ignored. Where there is nothing to pad, the results are views.
    """
    inside = np.s_[max(top, 0) : max(top + size[0], 0), max(left, 0) : max(left + size[1], 0)]
    image, label = image[inside], label[inside]
    above, before = max(-top, 0), max(-left, 0)
    below, behind = size[0] - above - label.shape[0], size[1] - before - label.shape[1]
    if above == before == below == behind == 0:
        return image, label
    borders = (above, below, before, behind, cv2.BORDER_CONSTANT)
    return (
        cv2.copyMakeBorder(image, *borders, value=image_fill),
        cv2.copyMakeBorder(label, *borders, value=(IGNORE_INDEX,)),
    )
