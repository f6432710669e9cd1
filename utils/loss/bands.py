"""Sums over the pixels of bilinearly upsampled scores that never exist in full size.

    scores (N,C,h,w) -> a band of upsampled rows (N,C,rows,W) -> its sum and gradient -> the next

At crop 768, batch 8 and 19 classes the scores of all pixels are 342 MiB, and autograd keeps several
times that for the loss. A row of the result depends on two rows of the scores, so a band of rows on
a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# On a CPU what the loss does to a band stays in the cache; a GPU wants few and large kernels.
BAND_BYTES = 32 * 2**20
BAND_BYTES_CPU = 4 * 2**20


def upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners=False; the scores themselves where they have that size."""
    if scores.shape[-2:] == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Band:
    """``rows`` of the upsampled scores, which depend on ``source_rows`` of the scores (N,C,h,w)."""

    rows: slice
    source_rows: slice
    source_height: int
    size: tuple[int, int]

    def upsample(self, part: Tensor) -> Tensor:
        """(N,C,rows,W) from ``part``, the source rows: as `upsample` gives it."""
        height, width = self.size
        # First along the height, where rows are still short.
        if self.source_height != height:
            rows = torch.arange(
                self.rows.start, self.rows.stop, device=part.device, dtype=part.dtype
            )
            position = (rows + 0.5) * (self.source_height / height) - 0.5
            position = position.clamp(0, self.source_height - 1)
            lower = position.floor()
            weight = (position - lower)[:, None]
            lower = lower.long() - self.source_rows.start
            upper = (lower + 1).clamp(max=part.shape[2] - 1)
            part = torch.lerp(part.index_select(2, lower), part.index_select(2, upper), weight)
        if part.device.type != "cpu" or part.shape[3] == width:
            return upsample(part, (part.shape[2], width))
        # The bilinear kernels take twice as long on a CPU; the linear ones use a GPU badly.
        lines = F.interpolate(part.flatten(1, 2), size=width, mode="linear", align_corners=False)
        return lines.view(*part.shape[:3], width)


def row_bands(scores: Tensor, size: tuple[int, int]) -> Iterator[Band]:
    """The bands, from top to bottom, that ``scores`` (N,C,h,w) upsampled to ``size`` consist of."""
    (height, width), source_height = size, scores.shape[2]
    row_bytes = scores.shape[0] * scores.shape[1] * width * scores.element_size()
    band_bytes = BAND_BYTES_CPU if scores.device.type == "cpu" else BAND_BYTES
    num_bands = max(1, min(-(-height * row_bytes // band_bytes), height))
    for number in range(num_bands):
        top, end = height * number // num_bands, height * (number + 1) // num_bands
        first, last = top, end
        if source_height != height:
            # One row more than needed at both ends, since positions are rounded on the device.
            first = max(int((top + 0.5) * source_height / height - 0.5) - 1, 0)
            last = min(int((end - 0.5) * source_height / height - 0.5) + 3, source_height)
        yield Band(slice(top, end), slice(first, last), source_height, size)


class _BandedSum(torch.autograd.Function):
    """The gradient is computed along with the sum, so that no band is upsampled twice."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        scores: Tensor,
        labels: Tensor,
        loss_sum: Callable[[Tensor, Tensor], Tensor],
        needs_gradient: bool,
    ) -> Tensor:
        scores = scores.detach().contiguous()
        gradient = torch.zeros_like(scores) if needs_gradient else None
        total = scores.new_zeros(())
        for band in row_bands(scores, (labels.shape[1], labels.shape[2])):
            part = scores[:, :, band.source_rows]
            with torch.set_grad_enabled(needs_gradient):
                part.requires_grad_(needs_gradient)
                value = loss_sum(band.upsample(part), labels[:, band.rows])
            if gradient is not None:
                gradient[:, :, band.source_rows] += torch.autograd.grad(value, part)[0]
            total += value.detach()
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None, None


def banded_sum(
    scores: Tensor, labels: Tensor, loss_sum: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Sum ``loss_sum(upsampled scores, labels)`` over bands of rows.

    ``scores`` (N,C,h,w) in float32 or float64; ``labels`` (N,H,W). ``loss_sum`` must be a sum over
    pixels. It may be differentiated once.
    """
    needs_gradient = torch.is_grad_enabled() and scores.requires_grad
    return _BandedSum.apply(scores, labels, loss_sum, needs_gradient)


@torch.no_grad()
def banded_map(
    scores: Tensor, labels: Tensor, function: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What ``function(upsampled scores, labels)`` (N,rows,W) gives band by band, as (N,H,W)."""
    bands = row_bands(scores, (labels.shape[1], labels.shape[2]))
    return torch.cat(
        [
            function(band.upsample(scores[:, :, band.source_rows]), labels[:, band.rows])
            for band in bands
        ],
        dim=1,
    )
