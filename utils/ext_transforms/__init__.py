"""Joint transforms of an image and its label, and the pipelines of training and validation.

Each takes (image, label, rng) and returns both: arrays for arrays, PIL pictures for PIL pictures.
All random numbers come from `rng`, so a sample looks the same whichever worker makes it. Without
`rng` they come from torch's global generator. Ranges, probabilities and rounding are those of
torchvision.transforms.v2. Images are interpolated bilinearly; labels, which
are uint8, take the nearest pixel. Padding of a label is 255 (ignored), padding of an image is the
fill color. Sizes are (H, W), or one int for a square.
"""

from .base import MEAN_COLOR, AnyTransform, JointTransform, call, new_rng, takes_pictures
from .color_jitter import ExtColorJitter
from .pipelines import train_transform, val_transform
from .predecessor import (
    Compose,
    ExtLambda,
    ExtNormalize,
    ExtPad,
    ExtRandomRotation,
    ExtRandomScale,
    ExtScale,
    ExtToTensor,
    Lambda,
)
from .random_crop import ExtRandomCrop, ExtRandomScaleCrop
from .transforms import (
    ExtCenterCrop,
    ExtCompose,
    ExtPILToTensor,
    ExtRandomHorizontalFlip,
    ExtRandomVerticalFlip,
    ExtResize,
)
