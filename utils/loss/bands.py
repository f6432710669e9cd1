"""Sums over the pixels of bilinearly upsampled scores that never exist in full size.

    scores (N,C,h,w) -> a band of upsampled rows (N,C,rows,W) -> its sum and gradient -> next band

At crop 768, batch 8 and 19 classes, the scores of all pixels are 342 MiB, and autograd keeps
several times that for the loss. A row of the result depends on only two rows of the scores, and a
band of rows on a few. So the peak of a whole training step on a CPU falls by 14 % in bf16 and by
5 % in fp32 (python -m benchmarks.train_step --memory).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable

from network.upsampled_conv import upsample

# A CPU's cache holds a small band while the loss works on it; a GPU needs few and large kernels.
# The loss needs some four times the bytes of a band, and a GPU spares a 64th of its memory for it.
BAND_BYTES = 32 * 2**20
BAND_BYTES_CPU = 4 * 2**20
BANDS_IN_MEMORY = 256


def band_bytes(device: torch.device) -> int:
    """How many bytes of upsampled scores a band has at most."""
    if device.type == "cpu":
        return BAND_BYTES_CPU
    if device.type != "cuda":
        return BAND_BYTES
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(BAND_BYTES, memory // BANDS_IN_MEMORY)


@dataclass(frozen=True)
class Band:
    """`rows` of the upsampled scores, and the `source_rows` of the scores they depend on."""

    rows: slice
    source_rows: slice
    source_height: int
    size: tuple[int, int]

    def upsample(self, part: Tensor) -> Tensor:
        """The band (N,C,rows,W) of what `upsample` gives, from `part`, its source rows."""
        height, width = self.size
        # The height comes first, while rows are still short.
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
        # The linear kernels take half as long as the bilinear ones on a CPU, but longer on a GPU.
        lines = F.interpolate(part.flatten(1, 2), size=width, mode="linear", align_corners=False)
        return lines.view(*part.shape[:3], width)


def row_bands(scores: Tensor, size: tuple[int, int]) -> Iterator[Band]:
    """The bands, from top to bottom, of `scores` (N,C,h,w) upsampled to `size` (H, W)."""
    (height, width), source_height = size, scores.shape[2]
    row_bytes = scores.shape[0] * scores.shape[1] * width * scores.element_size()
    num_bands = max(1, min(-(-height * row_bytes // band_bytes(scores.device)), height))
    for number in range(num_bands):
        top, end = height * number // num_bands, height * (number + 1) // num_bands
        first, last = top, end
        if source_height != height:
            # Positions are rounded on the device, so one more row at each end is kept.
            first = max(int((top + 0.5) * source_height / height - 0.5) - 1, 0)
            last = min(int((end - 0.5) * source_height / height - 0.5) + 3, source_height)
        yield Band(slice(top, end), slice(first, last), source_height, size)


class _BandedSum(torch.autograd.Function):
    """A sum that computes its gradient in the forward pass, so no band is upsampled twice."""

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
    def backward(ctx: BackwardCFunction, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None, None


def banded_sum(
    scores: Tensor, labels: Tensor, loss_sum: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Sum `loss_sum(upsampled scores, labels)` over bands of rows.

    `scores` are (N,C,h,w) in float32 or float64, `labels` (N,H,W). `loss_sum` must be a sum
    over pixels. The result can be differentiated once.
    """
    needs_gradient = torch.is_grad_enabled() and scores.requires_grad
    return _BandedSum.apply(scores, labels, loss_sum, needs_gradient)


@torch.no_grad()
def banded_map(
    scores: Tensor, labels: Tensor, function: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """`function(upsampled scores, labels)` (N,rows,W) of every band, joined to (N,H,W)."""
    bands = row_bands(scores, (labels.shape[1], labels.shape[2]))
    return torch.cat(
        [
            function(band.upsample(scores[:, :, band.source_rows]), labels[:, band.rows])
            for band in bands
        ],
        dim=1,
    )
