"""From a normalized batch to labels, for validation and prediction.

    inference_model = folded(model)                   # once per validation
    logits = low_res_logits(inference_model, images)  # (N,C,h,w); with tile= in windows
    labels = labels_from_logits(logits, size)         # (N,H,W)

`predict_labels` does the last two. All of it runs in `torch.inference_mode`, without autograd.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .folding import folded
from .upsampled_conv import upsample
from .utils import SimpleSegmentationModel

__all__ = ["best_class", "folded", "labels_from_logits", "low_res_logits", "predict_labels"]

GRID = 32  # windows begin at multiples of it, so that the features of all windows are aligned

# Scores computed at a time: as many as the cache of a core holds, or enough to fill a GPU.
CHUNK_BYTES = {"cpu": 2**20}
GPU_CHUNK_BYTES = 2**27

# How often a GPU sees images of one size before cuDNN searches for their quickest convolutions. The
# search takes as long as some dozens of images.
SEARCH_AFTER = 3
_passes: Counter[torch.Size] = Counter()  # of each size; what cuDNN found stays as long, too


def predict_labels(
    model: SimpleSegmentationModel, images: Tensor, *, tile: int | None = None
) -> Tensor:
    """The most probable class of every pixel, as uint8 (N,H,W), or int16 from 257 classes on.

    `images` is the normalized batch (N,3,H,W). Without `tile` the result is that of
    `model(images).argmax(1)`, except for ties.
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
        return _pass(model, images)
    return _tiled_logits(model, images, tile - tile % GRID)


def _pass(model: SimpleSegmentationModel, images: Tensor) -> Tensor:
    """The network's logits; cuDNN searches where images of this size come again and again."""
    before = torch.backends.cudnn.benchmark
    _passes[images.shape] += 1
    torch.backends.cudnn.benchmark = _passes[images.shape] > SEARCH_AFTER
    try:
        return model.low_res_logits(images)
    finally:
        torch.backends.cudnn.benchmark = before


def _tiled_logits(model: SimpleSegmentationModel, images: Tensor, tile: int) -> Tensor:
    """Blend the logits of all windows into one map, with the stride that the network has."""
    stride, total, norm = 0, images.new_empty(0), images.new_empty(0)
    for rows, columns in itertools.product(*(_windows(side, tile) for side in images.shape[-2:])):
        logits = _pass(model, images[..., rows, columns])
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

    uint8 (N,H,W), or int16 from 257 classes on. Between four neighboring scores, the bilinear
    weights are positive and sum to one: a class that is best at all four is best everywhere between
    them. Scores are upsampled only where the four disagree. The full-size scores (152 MiB for 19
    classes at 1024x2048) never exist, and a bf16 evaluation of MobileNetV2 at that size takes 13 %
    less time than with one class upsampled after the other.
    """
    kind = torch.uint8 if logits.shape[1] <= 256 else torch.int16
    # max()[1], since argmax over a strided dimension is several times slower on CPUs.
    best = logits.max(1)[1].to(kind)
    if best.shape[-2:] == tuple(size):
        return best
    height, width = logits.shape[-2:]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    rows = _Axis.between(size[0], height, dtype, logits.device)
    columns = _Axis.between(size[1], width, dtype, logits.device)
    upper, lower = best[:, rows.first], best[:, rows.second]
    corner = upper[:, :, columns.first]
    mixed = corner != upper[:, :, columns.second]
    mixed |= corner != lower[:, :, columns.first]
    mixed |= corner != lower[:, :, columns.second]
    # (N, h+1, rows of a cell, w+1, columns of a cell)
    cells = corner[:, :, None, :, None].repeat(1, 1, len(rows.weights), 1, len(columns.weights))
    _fill_mixed(cells, mixed, logits, rows, columns)
    # index_select copies whole rows, gather is quicker at single columns.
    labels = cells.flatten(3, 4).flatten(1, 2).index_select(1, rows.places)
    return labels.gather(2, columns.places.expand(*labels.shape[:2], -1))


class _Axis(NamedTuple):
    """Which pixels lie between which two scores, along one side (align_corners=False).

    There are `source + 1` cells: between the scores, before the first and behind the last. Each has
    room for as many pixels as the fullest one.
    """

    first: Tensor  # (source + 1): the score before each cell
    second: Tensor  # (source + 1): the one behind it
    weights: Tensor  # (room, source + 1): of the second score, for each pixel of a cell
    places: Tensor  # (size): where each pixel is among all room * (source + 1)

    @staticmethod
    @lru_cache(maxsize=64)  # the copies to a GPU would wait for it at each image
    def between(size: int, source: int, dtype: torch.dtype, device: torch.device) -> _Axis:
        position = (torch.arange(size, dtype=torch.float64) + 0.5) * (source / size) - 0.5
        before = position.floor()
        cell = before.long() + 1
        offset = torch.arange(size) - torch.searchsorted(cell, cell)
        room = int(offset.max()) + 1
        weights = torch.zeros(room, source + 1, dtype=dtype)
        weights[offset, cell] = (position - before).to(dtype)
        edges = torch.arange(source + 1)
        tensors = ((edges - 1).clamp(min=0), edges.clamp(max=source - 1), weights)
        return _Axis(*(tensor.to(device) for tensor in (*tensors, cell * room + offset)))


def _fill_mixed(cells: Tensor, mixed: Tensor, logits: Tensor, rows: _Axis, columns: _Axis) -> None:
    """Upsample the scores of the cells in `mixed` (N,h+1,w+1) and write the best classes."""
    num_classes, height, width = logits.shape[1:]
    scores = logits.permute(0, 2, 3, 1).reshape(-1, num_classes)  # no copy of channels_last logits
    room = len(rows.weights) * len(columns.weights)
    limit = CHUNK_BYTES.get(logits.device.type, GPU_CHUNK_BYTES)
    chunk = max(limit // (num_classes * room * rows.weights.element_size()), 64)
    where = cells.permute(0, 1, 3, 2, 4)  # (N, h+1, w+1, room, room)
    for part in mixed.nonzero().split(chunk):
        image, row, column = part.unbind(1)
        # One row of corners each (k), classes before cells, so that cells lie side by side.
        top, bottom = ((image * height + edge[row]) * width for edge in (rows.first, rows.second))
        left, right = columns.first[column], columns.second[column]
        index = torch.cat((top + left, bottom + left, top + right, bottom + right))
        corners = scores.index_select(0, index).to(rows.weights.dtype).t().contiguous()
        corners = corners.view(num_classes, 1, 4, -1)
        down = rows.weights[:, row]
        sides = torch.lerp(corners[:, :, 0::2], corners[:, :, 1::2], down[:, None])  # (C,room,2,k)
        across = columns.weights[:, column]
        values = torch.lerp(sides[:, :, :1], sides[:, :, 1:], across)  # (C,room,room,k)
        where[image, row, column] = best_class(values)[1].to(cells.dtype).permute(2, 0, 1)


def best_class(values: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of `values` (C,...), and the first class that has it; overwrites `values`.

    As `values.max(0)`, but on a CPU each step is vectorized.
    """
    best, last = values.amax(0), len(values) - 1
    backwards = torch.arange(last, -1, -1, device=values.device)
    backwards = backwards.view(-1, *[1] * best.dim())
    return best, last - values.eq_(best).mul_(backwards).amax(0)
