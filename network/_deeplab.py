"""DeepLabV3 (Chen et al. 2017, arXiv:1706.05587) and DeepLabV3+ (2018, arXiv:1802.02611).

ASPP looks at the last map with several dilations at once, and at its mean. V3 classifies the
result. V3+ first upsamples it to stride 4, and the early, sharp features correct its borders.

    out (Cout,h,w) --+-- 1x1 -----------------.
                     +-- 3x3, rate r1 --------+
                     +-- 3x3, rate r2 --------+-- concat (1280,h,w) -- 1x1, dropout (256,h,w) = A
                     +-- 3x3, rate r3 --------+
                     '-- mean, 1x1, spread ---'         every convolution with BN and ReLU

    V3:   A -- 3x3 (256,h,w) -- 1x1 (classes,h,w)
    V3+:  low_level (Cl,H/4,W/4) -- 1x1 (48,H/4,W/4) --.
          A -- upsample (256,H/4,W/4) -----------------+-- 3x3 (256,...) -- 1x1 (classes,H/4,W/4)

    aux:  aux (Ca,h,w) -- 3x3 (Ca/4,h,w), dropout -- 1x1 (classes,h,w)      in training only
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from .image_model import ImageModel
from .upsampled_conv import ConcatConv2d, Feature, concat_maps, mean_of_upsampled
from .utils import IntermediateLayerGetter

CHANNELS = 256
LOW_LEVEL_CHANNELS = 48


class BuildArgs(TypedDict):
    """The arguments of `build_model` with which a model was built; checkpoints keep them."""

    num_classes: int
    output_stride: int
    separable_conv: bool
    aspp_rates: list[int] | None  # None: those of the output stride
    backbone_args: dict[str, object]
    aux_head: bool


class DeepLabV3(ImageModel):
    """A backbone with one of the two heads, and what is needed to build and to use it again."""

    backbone: IntermediateLayerGetter
    name: str  # one of `network.list_models()`
    build_args: BuildArgs
    class_names: tuple[str, ...] | None = None  # of a checkpoint, if it knows them
    palette: np.ndarray | None = None  # of a checkpoint, if it has one: uint8 (256,3)

    def __init__(
        self,
        backbone: IntermediateLayerGetter,
        classifier: nn.Module,
        aux_classifier: nn.Module | None,
        *,
        name: str,
        build_args: BuildArgs,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(backbone, classifier, aux_classifier)
        self.name = name
        self.build_args = build_args
        self.set_normalization(mean, std)

    def features(self, x: Tensor) -> dict[str, Feature]:
        """What the heads take, with maps apart where joining them can wait."""
        return self.backbone.features(x)


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 1,
    dilation: int = 1,
    conv: type[nn.Conv2d] = nn.Conv2d,
) -> list[nn.Module]:
    """Convolution without bias that keeps the size, BatchNorm, ReLU."""
    return [
        conv(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class MapsSequential(nn.Sequential):
    """Layers of which the first takes several maps: what `concat_maps` would join."""

    def forward(self, *maps: Tensor) -> Tensor:
        first, *rest = self
        x = first(*maps)
        del maps  # in inference, a part of the peak
        for layer in rest:
            x = layer(x)
        return x


class ASPPConv(MapsSequential):
    """A dilated 3x3 convolution of the joined maps."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__(
            *conv_bn_relu(
                in_channels, out_channels, kernel_size=3, dilation=dilation, conv=ConcatConv2d
            )
        )


class ASPPPooling(nn.Sequential):
    """The mean of the joined maps, repeated at every pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, out_channels))

    def forward(self, sharp: Tensor, *coarse: Tensor) -> Tensor:
        height, width = sharp.shape[-2:]
        pool, *rest = self
        x = pool(sharp)
        if coarse:
            means = [mean_of_upsampled(y, (height, width)) for y in coarse]
            x = torch.cat([x, *means], dim=1)
        for layer in rest:
            x = layer(x)
        return x.expand(-1, -1, height, width)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (N,C,h,w), or maps that would be joined -> (N,256,h,w)."""

    def __init__(self, in_channels: int, atrous_rates: Sequence[int]) -> None:
        super().__init__()
        branches: list[nn.Module] = [
            MapsSequential(*conv_bn_relu(in_channels, CHANNELS, conv=ConcatConv2d))
        ]
        branches += [ASPPConv(in_channels, CHANNELS, rate) for rate in atrous_rates]
        self.convs = nn.ModuleList([*branches, ASPPPooling(in_channels, CHANNELS)])
        self.project = nn.Sequential(
            *conv_bn_relu(len(self.convs) * CHANNELS, CHANNELS), nn.Dropout(0.1)
        )

    def forward(self, x: Feature) -> Tensor:
        maps = (x,) if isinstance(x, Tensor) else x
        # What suits one dilated convolution suits all branches; so maps are joined at most once.
        dilated: Any = self.convs[1]
        maps = dilated[0].keep_apart(*maps)
        return self.project(torch.cat([branch(*maps) for branch in self.convs], dim=1))


class DeepLabHead(nn.Module):
    """DeepLabV3: takes `out`, gives logits of its size; `low_level_channels` has no effect."""

    def __init__(
        self,
        in_channels: int,
        low_level_channels: int,
        *,
        num_classes: int,
        atrous_rates: Sequence[int],
    ) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            ASPP(in_channels, atrous_rates),
            *conv_bn_relu(CHANNELS, CHANNELS, kernel_size=3),
            nn.Conv2d(CHANNELS, num_classes, 1),
        )
        init_head(self)

    def forward(self, features: Mapping[str, Feature]) -> Tensor:
        return self.classifier(features["out"])


class DeepLabHeadV3Plus(nn.Module):
    """DeepLabV3+: takes `out` and `low_level`, gives logits of `low_level`'s size."""

    def __init__(
        self,
        in_channels: int,
        low_level_channels: int,
        *,
        num_classes: int,
        atrous_rates: Sequence[int],
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(*conv_bn_relu(low_level_channels, LOW_LEVEL_CHANNELS))
        self.aspp = ASPP(in_channels, atrous_rates)
        self.classifier = MapsSequential(
            *conv_bn_relu(
                LOW_LEVEL_CHANNELS + CHANNELS, CHANNELS, kernel_size=3, conv=ConcatConv2d
            ),
            nn.Conv2d(CHANNELS, num_classes, 1),
        )
        init_head(self)

    def forward(self, features: Mapping[str, Feature]) -> Tensor:
        coarse = self.aspp(features["out"])
        return self.classifier(self.project(features["low_level"]), coarse)


class FCNHead(nn.Sequential):
    """Auxiliary head: (N,C,h,w) of the stage before the last -> logits (N,classes,h,w).

    Its loss, weighted 0.4, helps the early stages to learn (PSPNet, Zhao et al. 2017,
    arXiv:1612.01105, section 4). Layers and names are those of torchvision's FCNHead.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        channels = in_channels // 4
        super().__init__(
            *conv_bn_relu(in_channels, channels, kernel_size=3),
            nn.Dropout(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )
        init_head(self)


def init_head(module: nn.Module) -> None:
    """He initialization of convolutions, 1 and 0 for BatchNorm; biases stay as they are."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class AtrousSeparableConvolution(nn.Module):
    """Depthwise convolution, then 1x1 (children `body.0` and `body.1`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(
                in_channels,
                in_channels,
                kernel_size,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=in_channels,
                bias=bias,
            ),
            nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        )
        init_head(self)

    def keep_apart(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """The maps joined, as one: this layer can use only that."""
        return (concat_maps(*maps),)

    def forward(self, *maps: Tensor) -> Tensor:
        return self.body(concat_maps(*maps))


def convert_to_separable_conv(module: nn.Module) -> nn.Module:
    """Replace each ungrouped convolution larger than 1x1 by a depthwise and a 1x1 convolution.

    This replaces the children of `module` in place, with new weights, and returns the module; if
    `module` is such a convolution itself, it returns the new one. A second call changes nothing.
    """
    if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and module.groups == 1:
        like: Any = module  # torch's types allow tuples of any length here
        channels, steps = (like.in_channels, like.out_channels), (like.stride, like.padding)
        separable = AtrousSeparableConvolution(
            *channels, like.kernel_size, *steps, like.dilation, bias=like.bias is not None
        )
        return separable.to(like.weight)
    for name, child in module.named_children():
        setattr(module, name, convert_to_separable_conv(child))
    return module
