"""Convolution of upsampled features, computed from the features before they are upsampled.

DeepLabV3+ convolves upsampled maps: in the decoder the map of ASPP, mostly four times as wide and
high as before, and in ASPP the three coarse branches of HRNet. Both upsampling and mixing channels
are linear, one works on pixels and the other on channels, so their order can change:

    conv(upsample(x)) = sum over the taps of shift(upsample(W_tap x))

This mixes channels where pixels are few: 1/16 of the multiplications if sides grow fourfold.
Upsampling and shifting become one small matrix for each side. It is the same sum in another order,
so for finite numbers the result and its gradients are equal up to rounding. Neither the upsampled
maps nor their concatenation are ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BAND_BYTES = 4 * 2**20  # of the result computed at a time, but at least 8 rows
MIN_RATIO = 1.5  # of the sides after and before: with less, the plain way is quicker

Feature = Tensor | tuple[Tensor, ...]  # one map, or several of which `concat_maps` makes one


def upsample(x: Tensor, size: tuple[int, int], *, mode: str = "bilinear") -> Tensor:
    """Resize (N,C,h,w) to `size`, with the borders of the image aligned (align_corners=False)."""
    # An exporter must not compare: that would bind the result to the sizes it was shown.
    if not is_traced() and x.shape[2:] == size:
        return x
    align_corners = None if mode == "nearest" else False
    return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)


def concat_maps(sharp: Tensor, *coarse: Tensor) -> Tensor:
    """Join maps (N,C_i,h_i,w_i), upsampled to the size of the first: (N, sum of C_i, H, W)."""
    if not coarse:
        return sharp
    size = (sharp.shape[2], sharp.shape[3])
    return torch.cat([sharp, *(upsample(x, size) for x in coarse)], dim=1)


class ConcatMaps(nn.Module):
    """The last child of a backbone that ends in several maps: joins them by `concat_maps`."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return concat_maps(*maps)


class ConcatConv2d(nn.Conv2d):
    """A convolution of `concat_maps(*maps)`, with the parameters of a convolution of that map.

    It is 1x1 or 3x3, with stride 1 and a padding of zeros that keeps the size.
    It upsamples and joins the maps only where that is quicker: see `keep_apart`. Elsewhere, the
    result can be differentiated only once, and not by `torch.func`.
    """

    def keep_apart(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """The maps as they are, where convolving each by itself is quicker; else joined, as one."""
        return maps if self.pays(*maps) else (concat_maps(*maps),)

    def forward(self, *maps: Tensor) -> Tensor:
        sharp, *coarse = self.keep_apart(*maps)
        if not coarse:
            return super().forward(sharp)
        first, *others = self.weight.split([x.shape[1] for x in (sharp, *coarse)], dim=1)
        result = self._conv_forward(sharp, first, self.bias)
        total = result.contiguous(memory_format=torch.channels_last)
        for x, weight in zip(coarse, others, strict=True):
            total = _AddConvOfUpsampled.apply(total, x, weight, self.dilation[0])
        # The layout that a plain convolution would have given.
        return total if total is result else total.contiguous()

    def pays(self, sharp: Tensor, *coarse: Tensor) -> bool:
        """Whether it is quicker to convolve the coarse maps before they are upsampled."""
        return all(
            works_on_coarse(x)
            and sharp.shape[2] >= MIN_RATIO * x.shape[2]
            and sharp.shape[3] >= MIN_RATIO * x.shape[3]
            for x in coarse
        )


def works_on_coarse(x: Tensor) -> bool:
    """Whether maps on this device are convolved before they are upsampled.

    Not on a GPU: there the convolution is quick, and what replaces it is limited by memory.
    Compilers and exporters get the plain operations.
    """
    return x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) and not is_traced()


def is_traced() -> bool:
    """Whether a compiler or an exporter is watching."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def mean_of_upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`upsample(x, size).mean((2, 3), keepdim=True)`: (N,C,h,w) -> (N,C,1,1)."""
    if not works_on_coarse(x):
        return upsample(x, size).mean((2, 3), keepdim=True)
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (
        _upsampling(small, large).mean(0) for small, large in zip(x.shape[2:], size, strict=True)
    )
    weights = torch.outer(rows, columns).to(dtype)
    return (x.to(dtype) * weights).sum((2, 3), keepdim=True).to(x.dtype)


class _AddConvOfUpsampled(torch.autograd.Function):
    """Adds the convolution of `upsample(x, (H,W))` to `base` (N,O,H,W), channels_last, in place.

    `x` is (N,I,h,w), the weight (O,I,k,k) with odd k; the padding keeps the size. The two sides of
    the kernel are applied one after the other: first the columns, for one row of taps at a time,
    into `wide` (N, h x k rows of taps, W x O); then all rows.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        (batch, channels, *size), (height, width) = base.shape, x.shape[2:]
        pixels, taps = _pixels_and_taps(x, weight, base.dtype)
        kernel = len(taps)
        wide = base.new_empty(batch * height, kernel, size[1], channels)
        for row, tap in enumerate(taps):
            mixed = F.linear(pixels, tap).view(batch * height, width * kernel, channels)
            for band in _bands_of(wide[:, row], width, kernel, dilation):
                wide[:, row, band.rows] = band.spread(mixed)
        del mixed
        wide = wide.view(batch, height * kernel, size[1] * channels)
        result = base.permute(0, 2, 3, 1).view(batch, size[0], size[1] * channels)
        for band in _bands_of(result, height, kernel, dilation):
            result[:, band.rows] += band.spread(wide)
        ctx.mark_dirty(base)
        return base

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (batch, channels, *size), (height, width) = gradient.shape, x.shape[2:]
        pixels, taps = _pixels_and_taps(x, weight, gradient.dtype)
        kernel = len(taps)
        result = gradient.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        result = result.view(batch, size[0], size[1] * channels)
        wide = result.new_zeros(batch, height * kernel, size[1] * channels)
        for band in _bands_of(result, height, kernel, ctx.dilation):
            band.gather(result, into=wide)
        wide = wide.view(batch * height, kernel, size[1], channels)
        # A sum of three rounded terms: float32 until the end.
        x_gradient = torch.zeros_like(pixels, dtype=torch.promote_types(x.dtype, torch.float32))
        tap_gradients = torch.empty_like(taps)
        for row, tap in enumerate(taps):
            mixed = wide.new_zeros(batch * height, width * kernel, channels)
            for band in _bands_of(wide[:, row], width, kernel, ctx.dilation):
                band.gather(wide[:, row], into=mixed)
            mixed = mixed.view(batch, height, width, kernel * channels)
            if ctx.needs_input_grad[1]:
                x_gradient += mixed @ tap
            if ctx.needs_input_grad[2]:
                tap_gradients[row] = mixed.flatten(0, 2).t() @ pixels.flatten(0, 2)
        weight_gradient = tap_gradients.unflatten(1, (kernel, channels)).permute(2, 3, 0, 1)
        return (
            gradient,
            x_gradient.permute(0, 3, 1, 2).to(x.dtype) if ctx.needs_input_grad[1] else None,
            weight_gradient.to(weight.dtype) if ctx.needs_input_grad[2] else None,
            None,
        )


def _pixels_and_taps(x: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N,h,w,I), and (k rows of taps, k x O, I)."""
    taps = weight.permute(2, 3, 0, 1).to(dtype).contiguous().flatten(1, 2)
    return x.permute(0, 2, 3, 1).to(dtype).contiguous(), taps


class _Band(NamedTuple):
    """Some rows of the matrix that upsamples and shifts, and the columns that they use.

    The matrix is (S, s x k taps): from a side of s pixels to one of S. Outside the map a tap finds
    0, as with the padding of a convolution.
    """

    rows: slice
    columns: slice | Tensor
    matrix: Tensor

    def spread(self, taps: Tensor) -> Tensor:
        """(B, s x k, R) -> (B,rows,R)."""
        if isinstance(self.columns, slice):
            part = taps[:, self.columns]
        else:
            part = taps.index_select(1, self.columns)
        return torch.bmm(self.matrix.to(taps.dtype).expand(len(taps), -1, -1), part)

    def gather(self, result: Tensor, *, into: Tensor) -> None:
        """The transpose of `spread`: add these rows of (B,S,R) to `into` (B, s x k, R)."""
        matrix = self.matrix.t().to(result.dtype).expand(len(result), -1, -1)
        part = torch.bmm(matrix, result[:, self.rows])
        if isinstance(self.columns, slice):
            into[:, self.columns] += part
        else:
            into.index_add_(1, self.columns, part)


def _bands_of(result: Tensor, source: int, kernel: int, dilation: int) -> list[_Band]:
    """The bands that lead from `source` pixels to `result` (B,S,R)."""
    length = max(BAND_BYTES // max(result[:, 0].nbytes, 1), 8)
    return _bands(source, result.shape[1], kernel, dilation, length)


@lru_cache(maxsize=256)
def _bands(source: int, size: int, kernel: int, dilation: int, length: int) -> list[_Band]:
    reach = dilation * (kernel // 2)
    padded = F.pad(_upsampling(source, size), (0, 0, reach, reach))
    shifted = [padded[tap * dilation : tap * dilation + size] for tap in range(kernel)]
    matrix = torch.stack(shifted, dim=2).flatten(1)
    bands = []
    for start in range(0, size, length):
        part = matrix[start : start + length]
        used = part.abs().sum(0).nonzero().flatten()
        first, last = int(used[0]), int(used[-1]) + 1
        # Taps that are far apart use columns far apart, with zeros between them.
        columns = slice(first, last) if last - first < 1.5 * len(used) else used
        rows = slice(start, start + len(part))
        bands.append(_Band(rows, columns, part[:, columns].clone()))
    return bands


@lru_cache(maxsize=64)
def _upsampling(source: int, size: int) -> Tensor:
    """The matrix (size, source) of linear upsampling, float64."""
    unit = torch.eye(source, dtype=torch.float64, device="cpu")[None]
    return F.interpolate(unit, size=size, mode="linear", align_corners=False)[0].t()
