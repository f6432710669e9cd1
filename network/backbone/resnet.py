"""ResNet (He et al. 2016, arXiv:1512.03385), ResNeXt (1611.05431), Wide ResNet (1605.07146).

A block learns what to add to its input. The sum carries the gradient past every block, so that even
a hundred of them train. The first block of stages 2 to 4 halves the map in its 3x3 convolution
(torchvision's "v1.5") and doubles the channels.

    BasicBlock (18, 34)                 Bottleneck (the others): width = channels * w/64 * groups

    x (C,H,W) --------------.           x (Cin,H,W) ------------------.
    |                       |           |                             |
    3x3 C, stride s, BN, ReLU   |       1x1 width, BN, ReLU           |
    |                       |           |                             |
    3x3 C, BN               | 1x1, s,   3x3 width, stride s, groups,  | 1x1, s, BN
    |                       | BN, where |               BN, ReLU      | where shapes
    |                       | shapes    1x1 4C, BN                    | differ
    |                       | differ    |                             |
    + <---------------------'           + <---------------------------'
    |                                   |
    ReLU (C,H/s,W/s)                    ReLU (4C,H/s,W/s)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .base import FourStageBackbone, StagePlan, Variant, conv, conv_bn, torchvision_weights
from .base import __getattr__ as __getattr__  # type checkers: a function a variant

SAME_SIZE = StagePlan(1, 1, 1)


def projection(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential | None:
    """1x1 convolution and BatchNorm for the shortcut; None where input and output agree."""
    if stride == 1 and in_channels == out_channels:
        return None
    return conv_bn(conv(in_channels, out_channels, kernel_size=1, stride=stride), None)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first has the stride."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        plan: StagePlan = SAME_SIZE,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        if groups != 1 or width_per_group != 64:
            raise ValueError("a BasicBlock has 1 group of width 64; use a Bottleneck")
        super().__init__()
        stride, dilation = plan.stride, plan.first_dilation
        self.conv1 = conv(in_channels, channels, kernel_size=3, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, kernel_size=3, dilation=plan.dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up; only the 3x3 has the stride and the dilation."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        plan: StagePlan = SAME_SIZE,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        width = channels * width_per_group // 64 * groups
        stride, dilation = plan.stride, plan.first_dilation
        self.conv1 = conv(in_channels, width, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(
            width, width, kernel_size=3, stride=stride, dilation=dilation, groups=groups
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, out_channels, kernel_size=1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, out_channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


@dataclass(frozen=True, kw_only=True)
class ResNetVariant(Variant):
    """Numbers of one ResNet."""

    num_blocks: tuple[int, int, int, int]
    block: type[BasicBlock] | type[Bottleneck] = Bottleneck
    groups: int = 1
    width_per_group: int = 64


def make_stage(
    in_channels: int, *, index: int, plan: StagePlan, variant: ResNetVariant
) -> nn.Sequential:
    """A stage of blocks; the first has the stride."""
    channels = 64 * 2**index
    blocks = []
    for _ in range(variant.num_blocks[index]):
        blocks.append(
            variant.block(
                in_channels,
                channels,
                plan=plan,
                groups=variant.groups,
                width_per_group=variant.width_per_group,
            )
        )
        in_channels = channels * variant.block.expansion
        plan = StagePlan(1, plan.dilation, plan.dilation)
    return nn.Sequential(*blocks)


class ResNet(FourStageBackbone):
    """Stem (stride 4) and four stages; names are torchvision's, so its weight files fit."""

    def __init__(self, variant: ResNetVariant, *, output_stride: int) -> None:
        stem = {
            "conv1": conv(3, 64, kernel_size=7, stride=2),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(inplace=True),
            "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
        }
        super().__init__(
            stem,
            make_stage,
            channels=(64, *(width * variant.block.expansion for width in (64, 128, 256, 512))),
            output_stride=output_stride,
            variant=variant,
            prefix="layer",
        )


NETWORK = ResNet
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # of each stage, by depth
BLOCKS |= {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
VARIANTS = {
    name: ResNetVariant(
        num_blocks=BLOCKS[depth],
        block=BasicBlock if depth < 50 else Bottleneck,
        groups=groups,
        width_per_group=width,
        weights=torchvision_weights(f"{name}-{digits}", top1=top1),
    )
    for name, depth, groups, width, digits, top1 in (
        ("resnet18", 18, 1, 64, "f37072fd", 69.76),
        ("resnet34", 34, 1, 64, "b627a593", 73.31),
        ("resnet50", 50, 1, 64, "0676ba61", 76.13),
        ("resnet101", 101, 1, 64, "63fe2227", 77.37),
        ("resnet152", 152, 1, 64, "394f9c45", 78.31),
        ("resnext50_32x4d", 50, 32, 4, "7cdf4587", 77.62),
        ("resnext101_32x8d", 101, 32, 8, "8ba56ff5", 79.31),
        ("wide_resnet50_2", 50, 1, 128, "95faca4d", 78.47),
        ("wide_resnet101_2", 101, 1, 128, "32ee1156", 78.85),
    )
}
