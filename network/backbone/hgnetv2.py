"""PP-HGNetV2 (PaddleClas, 2023; no paper), the backbone of RT-DETR and D-FINE.

It is made for GPUs, which are fast at plain convolutions. The layers of a block run one after
another, and the block joins all their outputs: late layers see far, early ones stay sharp. Deep
stages use light layers (1x1, then depthwise 5x5). Small variants have a learned scale and a learned
offset after each ReLU. The blocks are also those of the first PP-HGNet; see hgnet.py.

    HGBlock with n layers of M channels
    x (Cin,H,W) -+- layer 1 -+- layer 2 -+- ... -- layer n    stages 1, 2:  3x3 M, BN, ReLU
    |            |  (M,H,W)  |  (M,H,W)  |            |       stages 3, 4:  1x1 M, BN,
    |            '----- concat (Cin + n*M, H, W) -----'         5x5 depthwise M, BN, ReLU
    |                     |
    |            1x1 Cout/2, BN, ReLU -- 1x1 Cout, BN, ReLU (Cout,H,W)
    |                     |
    '-- + (all blocks of a stage but the first)

    stages 2 to 4 begin with a depthwise 3x3, stride 2, BN, without ReLU

    StemBlock, widths M and C
    3x3 s2 M (M,H/2,W/2) -+- 2x2 M/2 -- 2x2 M -+- concat (2M,H/2,W/2) -- 3x3 s2 M -- 1x1 C
                          '----- max 2x2 ------'                                (C,H/4,W/4)
    a row of zeros below and a column of zeros to the right keep the size in the 2x2 layers

V2 has no attention: `EseModule` belongs to the first PP-HGNet.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import FourStageBackbone, StagePlan, Variant, conv, timm_weights
from .base import __getattr__ as __getattr__  # type checkers: a function a variant


class LearnableAffineBlock(nn.Module):
    """One learned scale and one learned offset for a whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        # In the type of x: under autocast, a float32 number would make the map float32 again.
        return torch.addcmul(self.bias.to(x.dtype), x, self.scale.to(x.dtype))


class ConvBNAct(nn.Sequential):
    """`conv`, `bn` and, unless `relu=False`, ReLU and, with `use_lab`, an affine block.

    With `padding="same"` an even kernel keeps the size too: a row of zeros more below and a column
    more to the right. torch's own "same" does that as well, but with a warning.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str | None = None,
        relu: bool = True,
        use_lab: bool = False,
    ) -> None:
        layers: dict[str, nn.Module] = {}
        if padding == "same" and kernel_size % 2 == 0:
            layers["pad"] = nn.ZeroPad2d((0, dilation % 2, 0, dilation % 2))
        layers["conv"] = conv(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        layers["bn"] = nn.BatchNorm2d(out_channels)
        if relu:
            layers["act"] = nn.ReLU(inplace=True)
            if use_lab:
                layers["lab"] = LearnableAffineBlock()
        super().__init__(OrderedDict(layers))


class LightConvBNAct(nn.Sequential):
    """A 1x1 convolution that mixes channels, then a depthwise one that looks at the neighbors."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, dilation: int, use_lab: bool
    ) -> None:
        mix = ConvBNAct(in_channels, out_channels, relu=False)
        look = ConvBNAct(
            out_channels,
            out_channels,
            kernel_size=kernel_size,
            dilation=dilation,
            groups=out_channels,
            use_lab=use_lab,
        )
        super().__init__(OrderedDict(conv1=mix, conv2=look))


class StemBlock(nn.Module):
    """(N,3,H,W) -> (N,C,H/4,W/4), a learned and a pooled path side by side."""

    def __init__(self, width: int, out_channels: int, *, use_lab: bool) -> None:
        super().__init__()
        lab, half = use_lab, width // 2
        self.stem1 = ConvBNAct(3, width, kernel_size=3, stride=2, use_lab=lab)
        self.stem2a = ConvBNAct(width, half, kernel_size=2, padding="same", use_lab=lab)
        self.stem2b = ConvBNAct(half, width, kernel_size=2, padding="same", use_lab=lab)
        self.stem3 = ConvBNAct(2 * width, width, kernel_size=3, stride=2, use_lab=lab)
        self.stem4 = ConvBNAct(width, out_channels, use_lab=lab)
        self.pool = nn.MaxPool2d(2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem1(x)
        pooled = self.pool(F.pad(x, (0, 1, 0, 1)))  # right and below
        return self.stem4(self.stem3(torch.cat([pooled, self.stem2b(self.stem2a(x))], dim=1)))


class EseModule(nn.Module):
    """Effective squeeze-excitation: a gate on each channel, computed from all channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()


@dataclass(frozen=True, kw_only=True)
class HGNetVariant(Variant):
    """Numbers of one network of either generation."""

    stem: tuple[int, ...]  # V2: width inside, channels out; V1: channels of each convolution
    stages: tuple[tuple[int, int, int], ...]  # of each: width of layers, channels out, blocks
    num_layers: int  # of every block
    use_lab: bool = False
    light: bool = True  # light layers in stages 3 and 4
    aggregation: str = "se"  # what joins the layers of a block: two convolutions, or one and "ese"


def aggregation(
    in_channels: int, out_channels: int, *, kind: str, use_lab: bool = False
) -> nn.Sequential:
    """What joins the layers of a block: two 1x1 convolutions ("se"), or one and a gate ("ese")."""
    if kind == "ese":
        return nn.Sequential(ConvBNAct(in_channels, out_channels), EseModule(out_channels))
    half = out_channels // 2
    return nn.Sequential(
        ConvBNAct(in_channels, half, use_lab=use_lab),
        ConvBNAct(half, out_channels, use_lab=use_lab),
    )


class HGBlock(nn.Module):
    """A chain of layers; an `aggregation` joins the input and the outputs of all layers."""

    def __init__(
        self,
        in_channels: int,
        *,
        index: int,  # of the stage
        residual: bool,
        dilation: int,
        variant: HGNetVariant,
    ) -> None:
        super().__init__()
        self.residual = residual
        width, out_channels, _ = variant.stages[index]
        num_layers, use_lab = variant.num_layers, variant.use_lab
        light = variant.light and index >= 2
        layer, kernel_size = (LightConvBNAct, 5) if light else (ConvBNAct, 3)
        self.layers = nn.ModuleList(
            layer(
                width if number else in_channels,
                width,
                kernel_size=kernel_size,
                dilation=dilation,
                use_lab=use_lab,
            )
            for number in range(num_layers)
        )
        total = in_channels + num_layers * width
        self.aggregation = aggregation(
            total, out_channels, kind=variant.aggregation, use_lab=use_lab
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        y = self.aggregation(torch.cat(maps, dim=1))
        return y + x if self.residual else y


def make_stage(
    in_channels: int, *, index: int, plan: StagePlan, variant: HGNetVariant
) -> nn.Sequential:
    """Stage `index + 1`; all but the first begin with a `downsample`, which has the stride."""
    _, channels, num_blocks = variant.stages[index]
    blocks = [
        HGBlock(
            channels if number else in_channels,
            index=index,
            residual=number > 0,
            dilation=plan.dilation,
            variant=variant,
        )
        for number in range(num_blocks)
    ]
    parts: dict[str, nn.Module] = {}
    if index:
        parts["downsample"] = ConvBNAct(
            in_channels,
            in_channels,
            kernel_size=3,
            stride=plan.stride,
            dilation=plan.first_dilation,
            groups=in_channels,
            relu=False,
        )
    return nn.Sequential(OrderedDict(parts, blocks=nn.Sequential(*blocks)))


class HGNetV2(FourStageBackbone):
    """Stem (stride 4) and four stages; inner names are the authors', as in timm and D-FINE."""

    renames = (
        *FourStageBackbone.renames,
        # Paddle's and RT-DETR's; RT-DETR's "same" has a layer of its own for the border.
        (r"\.aggregation_squeeze_conv\.", ".aggregation.0."),
        (r"\.aggregation_excitation_conv\.", ".aggregation.1."),
        (r"\.conv\.1\.", ".conv."),
    )
    classifier_keys = r"(head|last_conv|lab|fc)\."

    def __init__(self, variant: HGNetVariant, *, output_stride: int) -> None:
        width, channels = variant.stem
        super().__init__(
            {"stem": StemBlock(width, channels, use_lab=variant.use_lab)},
            make_stage,
            channels=(channels, *(stage[1] for stage in variant.stages)),
            output_stride=output_stride,
            variant=variant,
        )


NETWORK = HGNetV2
# A variant: number, accuracy, layers of a block, stem, stages. The weights were distilled from a
# larger network on unlabeled images and fine-tuned on ImageNet.
VARIANTS = {
    f"hgnetv2_b{number}": HGNetVariant(
        weights=timm_weights(
            f"hgnetv2_b{number}.ssld_stage2_ft_in1k", license="apache-2.0", top1=top1
        ),
        stem=stem,
        stages=stages,
        num_layers=num_layers,
        use_lab=number < 4,
    )
    for number, top1, num_layers, stem, stages in (
        (0, 78.59, 3, (16, 16), ((16, 64, 1), (32, 256, 1), (64, 512, 2), (128, 1024, 1))),
        (1, 79.916, 3, (24, 32), ((32, 64, 1), (48, 256, 1), (96, 512, 2), (192, 1024, 1))),
        (2, 82.362, 4, (24, 32), ((32, 96, 1), (64, 384, 1), (128, 768, 3), (256, 1536, 1))),
        (3, 83.588, 5, (24, 32), ((32, 128, 1), (64, 512, 1), (128, 1024, 3), (256, 2048, 1))),
        (4, 83.952, 6, (32, 48), ((48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1))),
        (5, 85.158, 6, (32, 64), ((64, 128, 1), (128, 512, 2), (256, 1024, 5), (512, 2048, 2))),
        (6, 86.38, 6, (48, 96), ((96, 192, 2), (192, 512, 3), (384, 1024, 6), (768, 2048, 3))),
    )
}
