"""Res2Net and Res2NeXt (Gao et al. 2019, arXiv:1904.01169).

A bottleneck whose 3x3 convolution is split into s - 1 small ones. Each of them also gets the result
of the previous one, so one block sees parts of the map with fields of view of 1, 3, 5, ... pixels,
at no extra cost. The width w of a part is channels * base_width/64 * groups.

    Bottle2neck with s = 4                          the first one of a stage
    x (Cin,H,W) -- 1x1, BN, ReLU (s*w,H,W) -.       x (Cin,H,W) - 1x1, BN, ReLU (s*w,H,W) -.
    |                                       |       |                                      |
    |   x1 ------ 3x3, BN, ReLU -- y1 --.   |       |   x1 -- 3x3, stride s, BN, ReLU -- y1
    |   x2 -(+)-- 3x3, BN, ReLU -- y2   |   |       |   x2 -- 3x3, stride s, BN, ReLU -- y2
    |        '--------------- y1        | split     |   x3 -- 3x3, stride s, BN, ReLU -- y3
    |   x3 -(+)-- 3x3, BN, ReLU -- y3   |           |   x4 -- 3x3 average, stride s  -- y4
    |        '--------------- y2      concat        |                                    |
    |   x4 ----------------------- y4 --'           |                      concat (s*w,H/s,W/s)
    |                                   |           |                                    |
    |                            1x1 4C, BN         1x1, s, BN                    1x1 4C, BN
    |                                   |           |                                    |
    '-----------------------------------+-- ReLU    '------------------------------------+-- ReLU

The authors' "v1b" (here res2net50d, res2net101d) has a stem of three 3x3 convolutions. Its shortcut
has a 2x2 average before the 1x1 convolution instead of a stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import FourStageBackbone, StagePlan, Variant, conv, conv_bn, timm_weights
from .base import __getattr__ as __getattr__  # type checkers: a function a variant


class DilatedAvgPool2d(nn.Module):
    """Average of k x k pixels that are `dilation` apart; zeros outside the map count too."""

    def __init__(
        self, kernel_size: int, *, stride: int = 1, dilation: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        if self.dilation == 1:
            return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding)
        # PyTorch has no dilated average. Ones are exact in bfloat16, 1/k^2 is not.
        channels, area = x.shape[1], self.kernel_size**2
        ones = x.new_ones(channels, 1, self.kernel_size, self.kernel_size)
        total = F.conv2d(x, ones, None, self.stride, self.padding, self.dilation, groups=channels)
        return total / area


class ShortcutPool(nn.Module):
    """Average of 2x2 pixels; at the right and bottom border, only of those inside the map.

    It equals `AvgPool2d(2, ceil_mode=True, count_include_pad=False)`, but it can be dilated and
    exported for any size.
    """

    def __init__(self, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.pool = DilatedAvgPool2d(2, stride=stride, dilation=dilation)
        self.padding = (0, dilation, 0, dilation)

    def forward(self, x: Tensor) -> Tensor:
        inside = x.new_ones(1, 1, *x.shape[-2:])
        share = self.pool(F.pad(inside, self.padding))  # of the window: 1, 1/2 or 1/4
        return self.pool(F.pad(x, self.padding)) / share


@dataclass(frozen=True, kw_only=True)
class Res2NetVariant(Variant):
    """Numbers of one Res2Net; `deep_stem` also means the averaged shortcut (v1b)."""

    num_blocks: tuple[int, int, int, int]
    base_width: int = 26
    scale: int = 4
    groups: int = 1
    deep_stem: bool = False


def projection(
    in_channels: int, out_channels: int, *, plan: StagePlan, averaged: bool
) -> nn.Sequential:
    """The shortcut of the first block of a stage; `averaged` pools where others have a stride."""
    stride = 1 if averaged else plan.stride
    layers = conv_bn(conv(in_channels, out_channels, kernel_size=1, stride=stride), None)
    if not averaged:
        return layers
    # A stage with dilation instead of its stride still has to average; the first never does.
    pools = plan.stride > 1 or plan.dilation > plan.first_dilation
    pool = ShortcutPool(stride=plan.stride, dilation=plan.first_dilation) if pools else None
    return nn.Sequential(pool or nn.Identity(), *layers)


class Bottle2neck(nn.Module):
    """1x1, a cascade of 3x3 on the parts, 1x1; the first of a stage has a pool, no cascade."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        variant: Res2NetVariant,
        plan: StagePlan,
        first: bool,
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.width = channels * variant.base_width // 64 * variant.groups
        stride = plan.stride if first else 1
        dilation = plan.first_dilation if first else plan.dilation
        self.conv1 = conv(in_channels, self.width * variant.scale, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(self.width * variant.scale)
        self.convs = nn.ModuleList(
            conv(
                self.width,
                self.width,
                kernel_size=3,
                stride=stride,
                dilation=dilation,
                groups=variant.groups,
            )
            for _ in range(variant.scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in range(variant.scale - 1))
        self.pool = self.downsample = None
        self.conv3 = conv(self.width * variant.scale, out_channels, kernel_size=1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        if first:  # of the first stage too, where the pool has stride 1
            self.pool = DilatedAvgPool2d(3, stride=stride, dilation=dilation, padding=dilation)
            self.downsample = projection(
                in_channels, out_channels, plan=plan, averaged=variant.deep_stem
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn3(self.conv3(torch.cat(self.multi_scale(x), dim=1)))
        return self.relu(x + shortcut)

    def multi_scale(self, x: Tensor) -> list[Tensor]:
        """The parts of `x`, each after its own layers."""
        *parts, last = x.split(self.width, dim=1)
        outputs: list[Tensor] = []
        for part, conv3x3, bn in zip(parts, self.convs, self.bns, strict=True):
            if self.pool is None and outputs:
                part = part + outputs[-1]
            outputs.append(self.relu(bn(conv3x3(part))))
        return [*outputs, last if self.pool is None else self.pool(last)]


def make_stage(
    in_channels: int, *, index: int, plan: StagePlan, variant: Res2NetVariant
) -> nn.Sequential:
    """A stage of blocks; the first has the stride."""
    channels = 64 * 2**index
    blocks = [Bottle2neck(in_channels, channels, variant=variant, plan=plan, first=True)]
    width = channels * Bottle2neck.expansion
    for _ in range(variant.num_blocks[index] - 1):
        blocks.append(Bottle2neck(width, channels, variant=variant, plan=plan, first=False))
    return nn.Sequential(*blocks)


def make_stem(variant: Res2NetVariant) -> nn.Module:
    """The layers before `bn1`, stride 2: one 7x7 convolution, or three 3x3."""
    if not variant.deep_stem:
        return conv(3, 64, kernel_size=7, stride=2)
    return nn.Sequential(
        *conv_bn(conv(3, 32, kernel_size=3, stride=2)),
        *conv_bn(conv(32, 32, kernel_size=3)),
        conv(32, 64, kernel_size=3),
    )


class Res2Net(FourStageBackbone):
    """Stem (stride 4) and four stages; names are the authors', so their weight files fit.

    Averages are dilated like convolutions, so weights stay exactly valid at every output stride.
    """

    authors_license = "CC BY-NC-SA 4.0: not for commercial use"

    def __init__(self, variant: Res2NetVariant, *, output_stride: int) -> None:
        stem = {
            "conv1": make_stem(variant),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(inplace=True),
            "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
        }
        super().__init__(
            stem,
            make_stage,
            channels=(64, *(width * Bottle2neck.expansion for width in (64, 128, 256, 512))),
            output_stride=output_stride,
            variant=variant,
            prefix="layer",
        )


NETWORK = Res2Net
LICENSE = "cc-by-nc-sa-4.0"  # of the authors' weights, which timm publishes too
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # of each stage, by depth
VARIANTS = {
    name: Res2NetVariant(
        num_blocks=BLOCKS[depth],
        base_width=base_width,
        scale=scale,
        groups=groups,
        deep_stem=name.endswith("d"),
        weights=timm_weights(f"{name}.in1k", top1=top1, license=LICENSE),
    )
    for name, depth, base_width, scale, groups, top1 in (
        ("res2net50_48w_2s", 50, 48, 2, 1, 77.53),
        ("res2net50_14w_8s", 50, 14, 8, 1, 78.14),
        ("res2net50_26w_4s", 50, 26, 4, 1, 77.99),
        ("res2net50_26w_6s", 50, 26, 6, 1, 78.59),
        ("res2net50_26w_8s", 50, 26, 8, 1, 78.95),
        ("res2net101_26w_4s", 101, 26, 4, 1, 79.19),
        ("res2next50", 50, 4, 4, 8, 78.24),
        ("res2net50d", 50, 26, 4, 1, 80.28),
        ("res2net101d", 101, 26, 4, 1, 81.24),
    )
}
