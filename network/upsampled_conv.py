"""A 3x3 convolution of upsampled features, computed from the features as they were.

The decoder of DeepLabV3+ convolves a map that was upsampled four times as wide and as high, mostly.
Upsampling and mixing channels are linear, and each leaves alone what the other works on:

    conv(upsample(x)) = sum over the 9 taps of shift(upsample(W_tap x))

So channels are mixed where pixels are few, 1/16 of the multiplications at stride 16; upsampling and
shifting become one small matrix per side. It is the same sum in another order: equal but for
rounding, gradients too, and in training neither the upsampled map nor its copies are kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

BAND_BYTES = 4 * 2**20  # of the result worked on at a time: what stays in a core's cache
MIN_RATIO = 1.5  # of the sides: below, convolving is quicker


class ConcatConv2d(nn.Conv2d):
    """A convolution of two maps' concatenation, of which the second is upsampled to the first.

    ``forward(sharp, coarse)``: (N,Ca,H,W), (N,Cb,h,w) -> (N,Cout,H,W), what
    ``super().forward(torch.cat([sharp, upsample(coarse)], 1))`` gives; parameters and names are
    those of a convolution of Ca + Cb channels.
    """

    def forward(self, sharp: Tensor, coarse: Tensor | None = None) -> Tensor:
        if coarse is None:
            return super().forward(sharp)
        size = (sharp.shape[2], sharp.shape[3])
        if not self.pays(coarse, size):
            return super().forward(torch.cat([sharp, upsample(coarse, size)], dim=1))
        channels = sharp.shape[1]
        taps = _mixed_taps(coarse, self.weight[:, channels:], size[1])
        result = self._conv_forward(sharp, self.weight[:, :channels], self.bias)
        return _add_rows(result, taps)

    def pays(self, coarse: Tensor, size: tuple[int, int]) -> bool:
        """Whether to work on the coarse map. Compilers and exporters get the plain convolution."""
        plain = (
            self.kernel_size == (3, 3)
            and self.padding == (1, 1)
            and self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
        )
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        # On a GPU the convolution is the quick part, and what replaces it is bound by memory.
        if not plain or traced or coarse.device.type != "cpu":
            return False
        return all(
            big >= MIN_RATIO * small for big, small in zip(size, coarse.shape[2:], strict=True)
        )


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners=False."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _mixed_taps(x: Tensor, weight: Tensor, width: int) -> Tensor:
    """(N,I,h,w) and the weight (O,I,3,3) -> (N, h x 3 rows of taps, W x O): W is done, H is not."""
    (batch, _, height, source), channels = x.shape, weight.shape[0]
    taps = weight.permute(2, 3, 0, 1).flatten(0, 2)  # (3 rows x 3 columns x O, I)
    mixed = F.linear(x.permute(0, 2, 3, 1), taps)  # (N,h,w, 3 x 3 x O)
    mixed = mixed.view(batch * height, source, 3, 3 * channels).transpose(1, 2)
    mixed = mixed.reshape(-1, source * 3, channels)  # (N x h x 3 rows, w x 3 columns, O)
    return _Resample.apply(None, mixed, width).view(batch, height * 3, width * channels)


def _add_rows(base: Tensor, taps: Tensor) -> Tensor:
    """(N,O,H,W), in place if it is channels_last, plus the rows of `_mixed_taps`."""
    base = base.permute(0, 2, 3, 1).contiguous()
    rows = _Resample.apply(base.flatten(2), taps, base.shape[1])
    return rows.view_as(base).permute(0, 3, 1, 2)


class _Resample(torch.autograd.Function):
    """(B, s x 3 taps, R) -> (B,S,R): the sum of the taps, each upsampled from s to S and shifted.

    Added to ``base`` (B,S,R), in place, if there is one; it is a view, and of those autograd wants
    the changed input to be the first.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, base: Tensor | None, taps: Tensor, size: int) -> Tensor:
        batch, ctx.rows, rest = taps.shape
        ctx.has_base = base is not None
        result = base if ctx.has_base else taps.new_empty(batch, size, rest)
        for band in _bands(ctx.rows // 3, size, _length(result)):
            matrix = band.matrix.to(taps.dtype).expand(batch, -1, -1)
            part = torch.bmm(matrix, taps[:, band.columns])
            if ctx.has_base:
                result[:, band.rows] += part
            else:
                result[:, band.rows] = part
        if ctx.has_base:
            ctx.mark_dirty(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        batch, size, rest = gradient.shape
        taps = gradient.new_zeros(batch, ctx.rows, rest)
        for band in _bands(ctx.rows // 3, size, _length(gradient)):
            matrix = band.matrix.t().to(gradient.dtype).expand(batch, -1, -1)
            taps[:, band.columns] += torch.bmm(matrix, gradient[:, band.rows])
        return gradient if ctx.has_base else None, taps, None


def _length(result: Tensor) -> int:
    """How many rows of ``result`` (B,S,R) make a band."""
    row_bytes = result[:, 0].nbytes
    return max(BAND_BYTES // row_bytes, 8)


class _Band(NamedTuple):
    """Some rows of the matrix that upsamples and shifts, without the columns that are 0."""

    rows: slice
    columns: slice
    matrix: Tensor


@lru_cache(maxsize=64)
def _bands(source: int, size: int, length: int) -> list[_Band]:
    """The matrix (size, source x 3 taps), whose tap t is 0 where row + t - 1 lies outside."""
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(source, dtype=torch.float64)[None]
        columns = F.interpolate(unit, size=size, mode="linear", align_corners=False)[0]
        padded = F.pad(columns.t(), (0, 0, 1, 1))
        taps = torch.stack([padded[tap : tap + size] for tap in range(3)], dim=2)
        bands = []
        for start in range(0, size, length):
            part = taps[start : start + length]
            used = part.abs().sum((0, 2)).nonzero()
            first, last = int(used[0]), int(used[-1]) + 1
            bands.append(
                _Band(
                    slice(start, start + len(part)),
                    slice(first * 3, last * 3),
                    part[:, first:last].flatten(1).clone(),
                )
            )
        return bands
