"""From a normalized batch to labels, for validation and prediction.

    inference_model = folded(model)                   # once per validation
    logits = low_res_logits(inference_model, images)  # (N,C,h,w); with tile= in windows
    labels = labels_from_logits(logits, size)         # (N,H,W)

`predict_labels` does the last two. All of it runs in `torch.inference_mode`, without autograd.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .folding import folded
from .upsampled_conv import upsample
from .utils import SimpleSegmentationModel

__all__ = ["folded", "labels_from_logits", "low_res_logits", "predict_labels"]

GRID = 32  # windows begin at multiples of it, so that the features of all windows are aligned


def predict_labels(
    model: SimpleSegmentationModel, images: Tensor, *, tile: int | None = None
) -> Tensor:
    """The most probable class of every pixel, as uint8 (N,H,W), or int16 from 257 classes on.

    `images` is the normalized batch (N,3,H,W). Without `tile` the result is that of
    `model(images).argmax(1)`.
    """
    size = (images.shape[2], images.shape[3])
    return labels_from_logits(low_res_logits(model, images, tile=tile), size)


@torch.inference_mode()
def low_res_logits(
    model: SimpleSegmentationModel, images: Tensor, *, tile: int | None = None
) -> Tensor:
    """Logits (N,C,h,w) of the normalized `images` (N,3,H,W) as the head gives them.

    With `tile` (64 or more) an image with a longer side goes through the network in square windows
    of that many pixels, rounded down to a multiple of 32, so memory holds one window and the
    result. Windows overlap by a quarter, and their logits are blended there: each window counts
    less towards its own border, where it sees least. The image pooling of ASPP sees one window
    instead of the whole image, so the result differs a little from that without `tile`.
    """
    if tile is not None and tile < 2 * GRID:
        raise ValueError(f"tile is {tile}; windows must be at least {2 * GRID} pixels wide")
    if tile is None or max(images.shape[-2:]) <= tile:
        return model.low_res_logits(images)
    return _tiled_logits(model, images, tile - tile % GRID)


def _tiled_logits(model: SimpleSegmentationModel, images: Tensor, tile: int) -> Tensor:
    """Blend the logits of all windows into one map, with the stride that the network has."""
    stride, total, norm = 0, images.new_empty(0), images.new_empty(0)
    for rows, columns in itertools.product(*(_windows(side, tile) for side in images.shape[-2:])):
        logits = model.low_res_logits(images[..., rows, columns])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not stride:  # the first window shows it: at least one of its sides is a whole tile
            ratio = max(rows.stop, columns.stop) / max(logits.shape[-2:])
            stride = 2 ** round(math.log2(ratio))
            shape = [math.ceil(side / stride) for side in images.shape[-2:]]
            total, norm = logits.new_zeros(*logits.shape[:2], *shape), logits.new_zeros(shape)
        place = [slice(w.start // stride, math.ceil(w.stop / stride)) for w in (rows, columns)]
        size = (place[0].stop - place[0].start, place[1].stop - place[1].start)
        if logits.shape[-2:] != size:  # networks with unpadded layers give a row or two less
            logits = upsample(logits, size)
        weights = torch.outer(*(_ramp(side, tile // (4 * stride), logits) for side in size))
        total[..., place[0], place[1]] += logits * weights
        norm[place[0], place[1]] += weights
    return total / norm


def _windows(size: int, tile: int) -> list[slice]:
    """The windows of `tile` pixels along a side of `size` pixels."""
    if size <= tile:
        return [slice(0, size)]
    overlap = max(tile // 4 // GRID, 1) * GRID
    last = math.ceil((size - tile) / GRID) * GRID
    starts = [*range(0, last, tile - overlap), last]
    return [slice(start, min(start + tile, size)) for start in starts]


def _ramp(size: int, top: int, like: Tensor) -> Tensor:
    """The weights of a window's features along a side: they rise from 1 at both ends to `top`."""
    steps = torch.arange(1, size + 1, device=like.device, dtype=like.dtype)
    return torch.minimum(steps, steps.flip(0)).clamp(max=max(top, 1))


@torch.inference_mode()
def labels_from_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The best class after bilinear upsampling of `logits` (N,C,h,w) to `size` (H,W).

    uint8 (N,H,W), or int16 from 257 classes on. The classes are upsampled one after the other, and
    only the best so far is kept: 8 MiB a map at 1024x2048, where all 19 classes would be 152.
    """
    num_classes = logits.shape[1]
    kind = torch.uint8 if num_classes <= 256 else torch.int16
    # Scores of half precision must not be rounded again.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).contiguous()
    best, *others = (logits[:, index : index + 1] for index in range(num_classes))
    best = upsample(best, size)
    labels = torch.zeros_like(best, dtype=kind)
    for index, scores in enumerate(others, start=1):
        scores = upsample(scores, size)
        labels.masked_fill_(scores > best, index)
        best = torch.maximum(best, scores)
    return labels[:, 0]
