"""Joint transforms of an image and its label, and the training and validation pipelines.

Each takes (image, label, rng) and gives both back: arrays for arrays, PIL pictures for PIL
pictures. What is random is drawn from `rng` alone, never from a global generator, so that a sample
looks the same whichever worker makes it; called without one, a fresh generator is used. Ranges,
probabilities and rounding are those of torchvision.transforms.v2. Images are interpolated
bilinearly, labels, which are uint8, take the nearest pixel. Where a picture is padded, the label
gets 255 (ignored) and the image the fill colour. Sizes are (H, W), or one int for a square.
"""

from .base import MEAN_COLOR, JointTransform
from .color_jitter import ExtColorJitter
from .pipelines import (
    ExtCenterCrop,
    ExtCompose,
    ExtPILToTensor,
    ExtRandomHorizontalFlip,
    ExtResize,
    train_transform,
    val_transform,
)
from .predecessor import (
    ExtLambda,
    ExtNormalize,
    ExtPad,
    ExtRandomRotation,
    ExtRandomScale,
    ExtRandomVerticalFlip,
    ExtScale,
    ExtToTensor,
)
from .random_crop import ExtRandomCrop, ExtRandomScaleCrop

__all__ = [
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
