"""Xception (Chollet 2017, arXiv:1610.02357) and Aligned Xception (Chen et al. 2018, 1802.02611).

A convolution filters and mixes channels in one step. In two steps, a filter for each channel and
then a 1x1, it costs a fraction, so the network can be wide and deep. ReLUs come before the
convolutions. Where input and output of a block differ in shape, the shortcut is a 1x1.

    Block of `xception`, stride s           XceptionModule of xception41, 65 and 71, stride s

    x (Cin,H,W) -----------------.          x (Cin,H,W) ----------------------------.
    |                            |          |                                       |
    ReLU, 3x3 depthwise,         |          ReLU, 3x3 depthwise, BN, 1x1, BN        |
    |     1x1, BN  (2 or 3 times)| 1x1, s,  ReLU, 3x3 depthwise, BN, 1x1, BN        | 1x1, s,
    |                            | BN       |                            `--> tap   | BN
    max 3x3, s, where s = 2      |          ReLU, 3x3 depthwise, s, BN, 1x1, BN     |
    |                            |          |                                       |
    + <--------------------------'          + <-------------------------------------'
    |                                       |
    (Cout,H/s,W/s)                          (Cout,H/s,W/s)

The aligned variants need no pooling, so they can be dilated like any other convolution. As with the
authors of DeepLabV3+, their decoder takes the tap of the block that goes from stride 4 to 8:
(256,H/4,W/4), before the ReLU. `xception` has a stem without padding: its maps are a bit smaller.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .base import (
    Backbone,
    FeatureInfo,
    StagePlan,
    Variant,
    Weights,
    conv,
    plan_stages,
    timm_weights,
)
from .base import __getattr__ as __getattr__  # type checkers: a function a variant
from .hgnetv2 import ConvBNAct

HALF = (0.5, 0.5, 0.5)
# timm's copy of Cadene's file; it has no hub repository.
CADENE_URL = (
    "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene/"
    "xception-43020ad28.pth"
)


def depthwise(channels: int, *, stride: int = 1, dilation: int) -> nn.Conv2d:
    """A 3x3 filter for each channel by itself."""
    size = {"kernel_size": 3, "stride": stride, "dilation": dilation}
    return conv(channels, channels, groups=channels, **size)


class SeparableConv2d(nn.Sequential):
    """Depthwise 3x3, then 1x1, with nothing between them: the original form."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int) -> None:
        first = depthwise(in_channels, dilation=dilation)
        pointwise = conv(in_channels, out_channels, kernel_size=1)
        super().__init__(OrderedDict(conv1=first, pointwise=pointwise))


def max_pool(*, stride: int, dilation: int) -> nn.Module:
    """3x3 maximum that keeps the size at stride 1."""
    if dilation == 1:
        return nn.MaxPool2d(3, stride=stride, padding=1)
    # MaxPool2d pads by 1 at most. So a wider border comes first, with the value that it pads with.
    border = nn.ConstantPad2d(dilation, float("-inf"))
    return nn.Sequential(border, nn.MaxPool2d(3, stride=stride, dilation=dilation))


class Block(nn.Module):
    """Two separable convolutions and a maximum, or three; pool and shortcut have the stride.

    `channels` are those after each convolution. All keep the dilation from before the block.
    """

    def __init__(
        self, in_channels: int, channels: tuple[int, ...], *, plan: StagePlan, relu_first: bool
    ) -> None:
        super().__init__()
        self.skip: nn.Conv2d | None = None
        self.skipbn: nn.BatchNorm2d | None = None
        pool = len(channels) == 2
        if pool:
            self.skip = conv(in_channels, channels[-1], kernel_size=1, stride=plan.stride)
            self.skipbn = nn.BatchNorm2d(channels[-1])
        layers: list[nn.Module] = []
        for index, out_channels in enumerate(channels):
            if index or relu_first:
                layers.append(nn.ReLU(inplace=index > 0))  # the first input is used again
            layers.append(SeparableConv2d(in_channels, out_channels, dilation=plan.first_dilation))
            layers.append(nn.BatchNorm2d(out_channels))
            in_channels = out_channels
        if pool:
            layers.append(max_pool(stride=plan.stride, dilation=plan.first_dilation))
        self.rep = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.skip is None or self.skipbn is None:
            return self.rep(x) + x
        return self.rep(x) + self.skipbn(self.skip(x))


def aligned_separable_conv(
    in_channels: int, out_channels: int, *, stride: int, dilation: int, relu: bool
) -> nn.Sequential:
    """Depthwise 3x3, BN, 1x1, BN; with `relu`, a ReLU follows each BN."""
    layers: dict[str, nn.Module] = {
        "conv_dw": depthwise(in_channels, stride=stride, dilation=dilation),
        "bn_dw": nn.BatchNorm2d(in_channels),
        "act_dw": nn.ReLU(inplace=True) if relu else nn.Identity(),
        "conv_pw": conv(in_channels, out_channels, kernel_size=1),
        "bn_pw": nn.BatchNorm2d(out_channels),
        "act_pw": nn.ReLU(inplace=True) if relu else nn.Identity(),
    }
    return nn.Sequential(OrderedDict(layers))


def aligned_stack(
    in_channels: int, channels: tuple[int, int, int], *, plan: StagePlan, relu_first: bool = True
) -> nn.Sequential:
    """Three separable convolutions with the dilation from before; the third has the stride."""
    layers: dict[str, nn.Module] = {}
    for number, out_channels in enumerate(channels, start=1):
        if relu_first:
            layers[f"act{number}"] = nn.ReLU(inplace=number > 1)
        layers[f"conv{number}"] = aligned_separable_conv(
            in_channels,
            out_channels,
            stride=plan.stride if number == 3 else 1,
            dilation=plan.first_dilation,
            relu=not relu_first,
        )
        in_channels = out_channels
    return nn.Sequential(OrderedDict(layers))


class XceptionModule(nn.Module):
    """Three separable convolutions and a shortcut; with `project` the shortcut is a 1x1."""

    def __init__(
        self, in_channels: int, channels: tuple[int, int, int], *, plan: StagePlan, project: bool
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = ConvBNAct(in_channels, channels[-1], stride=plan.stride, relu=False)
        self.stack = aligned_stack(in_channels, channels, plan=plan)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.stack(x) + self.shortcut(x)


class TappedXceptionModule(XceptionModule):
    """Also gives the input of its last convolution: x -> [tap, output]."""

    def forward(self, x: Tensor) -> list[Tensor]:
        *first, _, last = self.stack
        tap = x
        for layer in first:
            tap = layer(tap)
        return [tap, last(F.relu(tap)) + self.shortcut(x)]  # not in place: the tap is used again


class DropTap(nn.Module):
    """[tap, output] -> output."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1]


@dataclass(frozen=True, kw_only=True)
class XceptionVariant(Variant):
    """Numbers of one Xception; `entry` is (channels, stride) of each block of the entry flow."""

    entry: tuple[tuple[int, int], ...] = ((128, 2), (256, 2), (728, 2))
    num_middle: int = 8
    aligned: bool = True
    bn_eps: float = 1e-3
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF

    def plans(self, output_stride: int) -> list[StagePlan]:
        """One plan for each block, and a last one for the two convolutions after them."""
        strides = [stride for _, stride in self.entry] + [1] * self.num_middle + [2, 1]
        return plan_stages(strides, stem_stride=2, output_stride=output_stride)


def original_stages(variant: XceptionVariant, output_stride: int) -> dict[str, nn.Module]:
    """Children of `xception`, under the names in its weight files."""
    stages: dict[str, nn.Module] = {}
    for number, in_channels, channels, stride in ((1, 3, 32, 2), (2, 32, 64, 1)):
        stages[f"conv{number}"] = nn.Conv2d(in_channels, channels, 3, stride=stride, bias=False)
        stages[f"bn{number}"] = nn.BatchNorm2d(channels)
        stages[f"relu{number}"] = nn.ReLU(inplace=True)
    *plans, last_plan = variant.plans(output_stride)
    width = variant.entry[-1][0]
    rows: list[tuple[int, ...]] = [(channels,) * 2 for channels, _ in variant.entry]
    rows += [(width,) * 3] * variant.num_middle + [(width, 1024)]
    in_channels = 64
    for number, (row, plan) in enumerate(zip(rows, plans, strict=True), start=1):
        stages[f"block{number}"] = Block(in_channels, row, plan=plan, relu_first=number > 1)
        in_channels = row[-1]
    for number, channels in ((3, 1536), (4, 2048)):
        stages[f"conv{number}"] = SeparableConv2d(
            in_channels, channels, dilation=last_plan.dilation
        )
        stages[f"bn{number}"] = nn.BatchNorm2d(channels)
        stages[f"relu{number}"] = nn.ReLU(inplace=True)
        in_channels = channels
    return stages


def aligned_stages(variant: XceptionVariant, output_stride: int) -> dict[str, nn.Module]:
    """Children of an aligned Xception: the stem, and blocks counted from 0 as in timm's files."""
    stem = nn.Sequential(
        ConvBNAct(3, 32, kernel_size=3, stride=2), ConvBNAct(32, 64, kernel_size=3)
    )
    stages: dict[str, nn.Module] = {"stem": stem}
    *plans, last_plan = variant.plans(output_stride)
    width = variant.entry[-1][0]
    rows = [((channels,) * 3, stride) for channels, stride in variant.entry]
    rows += [((width,) * 3, 1)] * variant.num_middle + [((width, 1024, 1024), 2)]
    tapped = low_level_block(variant)
    in_channels = 64
    for index, ((channels, stride), plan) in enumerate(zip(rows, plans, strict=True)):
        module = TappedXceptionModule if index == tapped else XceptionModule
        # By the stride before dilation: the tensors are the same at every output stride.
        project = stride != 1 or in_channels != channels[-1]
        stages[f"block{index}"] = module(in_channels, channels, plan=plan, project=project)
        if index == tapped:
            stages[f"block{index}_out"] = DropTap()
        in_channels = channels[-1]
    last = aligned_stack(in_channels, (1536, 1536, 2048), plan=last_plan, relu_first=False)
    stages[f"block{len(rows)}"] = nn.Sequential(OrderedDict(stack=last))
    return stages


def low_level_block(variant: XceptionVariant) -> int:
    """Index of the block that goes from stride 4 to 8: the second one with a stride."""
    return [index for index, (_, stride) in enumerate(variant.entry) if stride == 2][1]


class Xception(Backbone):
    """Entry flow up to stride 16, middle flow of equal blocks, exit flow."""

    renames = ((r"^blocks\.(\d+)\.", r"block\1."),)  # of timm's aligned ones
    classifier_keys = r"(fc|last_linear|head)\."
    misfit = (
        r"^no tensor (backbone\.)?bn4\.",
        "it is the xception of VainF/DeepLabV3Plus-Pytorch, which is another network (no "
        "BatchNorm after the last convolution) and can't be used",
    )

    def __init__(self, variant: XceptionVariant, *, output_stride: int) -> None:
        if variant.aligned:
            stages = aligned_stages(variant, output_stride)
            index = low_level_block(variant)
            low_level = FeatureInfo(f"block{index}", variant.entry[index][0], 4)
        else:
            stages = original_stages(variant, output_stride)
            low_level = FeatureInfo("block1", variant.entry[0][0], 4)
        out = FeatureInfo(list(stages)[-1], 2048, output_stride)
        # The middle flow's last block; those of the aligned ones are counted from 0.
        number = len(variant.entry) + variant.num_middle - variant.aligned
        aux = FeatureInfo(f"block{number}", variant.entry[-1][0], min(16, output_stride))
        super().__init__(stages, low_level=low_level, out=out, aux=aux, variant=variant)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = variant.bn_eps


NETWORK = Xception
VARIANTS = {
    "xception": XceptionVariant(
        aligned=False,
        bn_eps=1e-5,
        weights=Weights(source=CADENE_URL, file="", license="apache-2.0", top1=79.058),
    ),
    "xception41": XceptionVariant(
        weights=timm_weights("xception41.tf_in1k", license="apache-2.0", top1=78.55)
    ),
    "xception65": XceptionVariant(
        num_middle=16,
        weights=timm_weights("xception65.ra3_in1k", license="apache-2.0", top1=83.186),
    ),
    "xception71": XceptionVariant(
        entry=((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)),
        num_middle=16,
        weights=timm_weights("xception71.tf_in1k", license="apache-2.0", top1=79.92),
    ),
}
