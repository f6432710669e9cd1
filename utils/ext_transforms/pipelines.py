"""What happens to a picture in training and in validation: edit the augmentation here.

The order counts: each transform gets the picture that the one before returned. More transforms are
in `transforms.py` and `predecessor.py`.
"""

from __future__ import annotations

from .color_jitter import ExtColorJitter
from .random_crop import ExtRandomScaleCrop
from .transforms import (
    ExtCenterCrop,
    ExtCompose,
    ExtPILToTensor,
    ExtRandomHorizontalFlip,
    ExtResize,
)


def train_transform(
    crop_size: int,
    *,
    scale_range: tuple[float, float] = (0.5, 2.0),
    color_jitter: float = 0.0,
    cat_max_ratio: float = 1.0,
) -> ExtCompose:
    """Random scale and crop, color jitter of the given strength, flip; gives uint8 tensors."""
    return ExtCompose(
        [
            ExtRandomScaleCrop(crop_size, scale_range, cat_max_ratio=cat_max_ratio),
            ExtColorJitter(color_jitter, color_jitter, color_jitter),
            ExtRandomHorizontalFlip(),
            ExtPILToTensor(),
        ]
    )


def val_transform(crop_size: int | None = None) -> ExtCompose:
    """The whole picture; with a crop size, resize the shorter side to it and crop the center.

    Scores on crops can't be compared with published ones, which are those of whole pictures.
    """
    if crop_size is None:
        return ExtCompose([ExtPILToTensor()])
    return ExtCompose([ExtResize(crop_size), ExtCenterCrop(crop_size), ExtPILToTensor()])
