"""Normalised batch -> labels, shared by validation and prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BAND_ROWS = 64


@torch.inference_mode()
def predict_labels(model: nn.Module, images: Tensor) -> Tensor:
    """Most probable class of every pixel, as uint8 (N,H,W), or int16 from 257 classes on.

    ``images`` is the normalised batch (N,3,H,W). The result is that of ``model(images).argmax(1)``
    (but for ties), yet the full-size scores, 152 MiB for 19 classes at 1024x2048, never exist:
    they are upsampled and reduced in bands of rows.
    """
    logits = model.low_res_logits(images).float()
    height, width = images.shape[-2:]
    # Full-width rows of a bilinear upsampling depend on two source rows each, so upsampling first
    # along the width and then band by band along the height is the same function.
    logits = F.interpolate(
        logits, size=(logits.shape[-2], width), mode="bilinear", align_corners=False
    )
    kind = torch.uint8 if logits.shape[1] <= 256 else torch.int16
    labels = torch.empty(len(images), height, width, dtype=kind, device=images.device)
    for top in range(0, height, BAND_ROWS):
        rows = torch.arange(top, min(top + BAND_ROWS, height), device=images.device)
        lower, upper, weight = _source_rows(rows, height, logits.shape[-2])
        band = torch.lerp(logits[:, :, lower], logits[:, :, upper], weight[:, None])
        # max()[1], since argmax over a strided dimension is several times slower on CPUs.
        labels[:, rows] = band.max(dim=1)[1].to(kind)
    return labels


def _source_rows(rows: Tensor, size: int, source: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two source rows of each output row and the weight of the second (align_corners=False)."""
    position = ((rows + 0.5) * (source / size) - 0.5).clamp(min=0)
    lower = position.floor().long().clamp(max=source - 1)
    return lower, (lower + 1).clamp(max=source - 1), (position - lower).float()
