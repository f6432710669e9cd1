"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381).

A depthwise convolution costs little, but it needs many channels to be useful. So a block widens its
input, filters each channel by itself, and narrows the result again. ReLU6 acts on the wide maps
only, since a ReLU on few channels loses information. The sum joins the narrow maps.

    InvertedResidual, expansion t
    x (Cin,H,W) -- 1x1, BN, ReLU6 (t*Cin,H,W) -- 3x3 depthwise, stride s, BN, ReLU6 (t*Cin,H/s,W/s)
    |                 (absent at t = 1)                       |
    |                                                  1x1, BN (Cout,H/s,W/s)
    |                                                         |
    '----------- where s = 1 and Cin = Cout: -----------------+--> (Cout,H/s,W/s)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from .base import (
    Backbone,
    FeatureInfo,
    Variant,
    conv,
    conv_bn,
    plan_stages,
    torchvision_weights,
)
from .base import __getattr__ as __getattr__  # type checkers: a function a variant

LOW_LEVEL_LENGTH = 4  # the stem and the blocks of the first two rows: up to stride 4


class InvertedResidual(nn.Module):
    """Expansion, depthwise 3x3, linear projection."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.adds_input = stride == 1 and in_channels == out_channels
        self.dilation = dilation
        self.input_padding = 0  # see `MobileNetV2.configure`
        size = {"kernel_size": 3, "stride": stride, "dilation": dilation}
        depthwise = conv_bn(conv(width, width, groups=width, **size), nn.ReLU6)
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn(conv(in_channels, width, kernel_size=1), nn.ReLU6))
        layers += [depthwise, conv(width, out_channels, kernel_size=1)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.input_padding,) * 4) if self.input_padding else x
        return x + self.conv(padded) if self.adds_input else self.conv(padded)


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Variant(Variant):
    """Table 2 of the paper without its last 1x1; a row: (expansion, channels, blocks, stride)."""

    stages: tuple[tuple[int, int, int, int], ...]
    stem_channels: int = 32


def timm_renames() -> tuple[tuple[str, str], ...]:
    """Rules from timm's names, which count blocks within each row, to torchvision's."""
    rules = [(r"^conv_stem\.", "features.0.0."), (r"^bn1\.", "features.0.1.")]
    first = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
    others = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"}
    others |= {"conv_pwl": "2", "bn3": "3"}
    rules += [(rf"^blocks\.0\.0\.{old}\.", f"features.1.conv.{new}.") for old, new in first.items()]
    index = 2
    for row, num_blocks in enumerate((2, 3, 4, 3, 3, 1), start=1):
        for block in range(num_blocks):
            rules.append((rf"^blocks\.{row}\.{block}\.", f"features.{index}."))
            index += 1
    # Only timm's names have the layer directly after the number of the block.
    rules += [(rf"^(features\.\d+)\.{old}\.", rf"\1.conv.{new}.") for old, new in others.items()]
    return tuple(rules)


class MobileNetV2(Backbone):
    """Two children: the layers up to stride 4 and those after it; inner keys are torchvision's."""

    renames = (
        *timm_renames(),
        (r"^features\.([0-3])\.", r"low_level_features.\1."),
        (r"^features\.([4-9]|1[0-7])\.", r"high_level_features.\1."),
    )
    predecessor_args = MappingProxyType({"legacy_padding": True})
    classifier_keys = r"features\.18\.|classifier\.|conv_head\.|bn2\."

    def __init__(self, variant: MobileNetV2Variant, *, output_stride: int) -> None:
        stem = conv_bn(conv(3, variant.stem_channels, kernel_size=3, stride=2), nn.ReLU6)
        features: list[nn.Module] = [stem]
        in_channels = variant.stem_channels
        strides = [stride for *_, stride in variant.stages]
        plans = plan_stages(strides, stem_stride=2, output_stride=output_stride)
        for (expansion, channels, num_blocks, _), plan in zip(variant.stages, plans, strict=True):
            for index in range(num_blocks):
                block = InvertedResidual(
                    in_channels,
                    channels,
                    expansion=expansion,
                    stride=plan.stride if index == 0 else 1,
                    dilation=plan.first_dilation if index == 0 else plan.dilation,
                )
                features.append(block)
                in_channels = channels
        named = [(str(index), layer) for index, layer in enumerate(features)]
        split = LOW_LEVEL_LENGTH
        super().__init__(
            {
                "low_level_features": nn.Sequential(OrderedDict(named[:split])),
                "high_level_features": nn.Sequential(OrderedDict(named[split:])),
            },
            low_level=FeatureInfo("low_level_features", variant.stages[1][1], 4),
            out=FeatureInfo("high_level_features", in_channels, output_stride),
            variant=variant,
        )

    @staticmethod
    def configure(stages: nn.Module, *, legacy_padding: bool = False) -> None:
        """`legacy_padding` is how models of VainF/DeepLabV3Plus-Pytorch were trained.

        Its stem has no padding, and a block pads the input of the expansion instead of that of the
        depthwise convolution. At the border, that convolution then sees ReLU6(BN(0)) where others
        see 0.
        """
        if not isinstance(legacy_padding, bool):
            raise ValueError(f"legacy_padding is {legacy_padding!r}; it must be True or False")
        for layer in stages.modules():
            if isinstance(layer, InvertedResidual):
                layer.input_padding = layer.dilation if legacy_padding else 0
            elif isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                layer.padding = (0, 0) if legacy_padding else layer.dilation


NETWORK = MobileNetV2
VARIANTS = {
    "mobilenet": MobileNetV2Variant(
        predecessor_name="mobilenet_v2",
        stages=(
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ),
        weights=torchvision_weights("mobilenet_v2-b0353104", top1=71.88),
    ),
}
