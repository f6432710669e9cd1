"""Better labels from several passes: mirrored and scaled images, their probabilities averaged.

    passes = logits_of_passes(model, images, scales=(0.75, 1.0, 1.25), flip=True)
    labels = labels_of_passes(passes, size)
    labels, confidence = most_probable(passes, size)  # also the probability of each label

`images` is the normalized batch (N,3,H,W), `size` its (H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .inference import best_class, labels_from_logits, low_res_logits
from .upsampled_conv import upsample
from .utils import SimpleSegmentationModel

SMALLEST_SIDE = 33  # pixels of an image that every network takes
# Probabilities computed at a time: as many as the cache of a core holds, or enough to fill a GPU.
BAND_BYTES = {"cpu": 2**22}
GPU_BAND_BYTES = 2**27


@torch.inference_mode()
def logits_of_passes(
    model: SimpleSegmentationModel,
    images: Tensor,
    *,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> list[Tensor]:
    """Low-resolution logits (N,C,h,w) of each pass: one a scale, with `flip` a mirrored one too.

    The scale nearest to 1 comes first. Mirrored logits are turned back. For `tile` see
    `low_res_logits`.
    """
    passes = []
    for scale in sorted(scales, key=lambda scale: abs(scale - 1)):
        scaled = _resized(images, scale)
        passes.append(low_res_logits(model, scaled, tile=tile))
        if flip:
            passes.append(low_res_logits(model, scaled.flip(3), tile=tile).flip(3))
    return passes


def _resized(images: Tensor, scale: float) -> Tensor:
    """The images times `scale`, but no side below 33 pixels, which networks need."""
    if scale == 1:
        return images
    size = [max(round(side * scale), SMALLEST_SIDE) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=scale < 1)


def labels_of_passes(passes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The class with the highest mean probability over all passes, as `predict_labels` gives it."""
    if len(passes) == 1:
        return labels_from_logits(passes[0], size)
    return most_probable(passes, size)[0]


@torch.inference_mode()
def most_probable(passes: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The class with the highest mean probability over all passes, and that probability.

    Labels are uint8 (N,H,W), or int16 from 257 classes on; probabilities float (N,H,W). The
    softmax of each pass is taken at full size, of one band of rows at a time.
    """
    num_images, num_classes = passes[0].shape[:2]
    kind = torch.uint8 if num_classes <= 256 else torch.int16
    passes = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in passes]
    row_bytes = num_images * num_classes * size[1] * passes[0].element_size()
    limit = BAND_BYTES.get(passes[0].device.type, GPU_BAND_BYTES)
    found = []
    for rows in torch.arange(size[0], dtype=torch.float64).split(max(limit // row_bytes, 1)):
        total = torch.zeros((), device=passes[0].device)
        for logits in passes:
            total = total + _upsampled_rows(logits, rows, size).softmax(1)
        best, labels = best_class((total / len(passes)).transpose(0, 1))
        found.append((labels.to(kind), best))
    labels, confidence = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return labels, confidence


def _upsampled_rows(logits: Tensor, rows: Tensor, size: tuple[int, int]) -> Tensor:
    """The rows with the numbers `rows` of `logits` (N,C,h,w) upsampled to `size`."""
    last = logits.shape[2] - 1
    position = ((rows + 0.5) * (logits.shape[2] / size[0]) - 0.5).clamp(0, last)
    above = position.long()
    weight = (position - above)[:, None].to(logits)
    below = (above + 1).clamp(max=last).to(logits.device)
    # The height comes first, while rows are still short.
    part = torch.lerp(
        logits.index_select(2, above.to(logits.device)), logits.index_select(2, below), weight
    )
    return upsample(part, (len(rows), size[1]))
